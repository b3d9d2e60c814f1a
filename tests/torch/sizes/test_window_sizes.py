"""Attention windows beside those of Swin: without a table, with one that the code interpolates, with a stored mask.

The oracle: where every token is there four times, windows of four times as many tokens give every answer four times,
since attention over copies is attention over the originals.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402
from rekernel.torch.layers.relative_positions import relative_index  # noqa: E402

WIDTH = 8


def cut(x: Any, window: tuple[int, ...]) -> Any:
    """(N, *grid, C) to (N * windows, tokens, C)."""
    grid, dims = x.shape[1:-1], len(window)
    sizes = [n for g, w in zip(grid, window, strict=True) for n in (g // w, w)]
    x = x.reshape(len(x), *sizes, x.shape[-1])
    return x.permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1).reshape(
        -1, torch.tensor(window).prod(), x.shape[-1]
    )


def put_together(x: Any, window: tuple[int, ...], grid: tuple[int, ...]) -> Any:
    dims, counts = len(window), [g // w for g, w in zip(grid, window, strict=True)]
    x = x.reshape(-1, *counts, *window, x.shape[-1])
    order = [axis for i in range(dims) for axis in (1 + i, 1 + dims + i)]
    return x.permute(0, *order, 2 * dims + 1).reshape(len(x), *grid, x.shape[-1])


class Attention(nn.Module):
    """Attention within windows; `table` is that of relative positions, `extra` another parameter."""

    def __init__(self, window: tuple[int, ...], table: bool = False, extra: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        if table:
            self.window_size = window
            rows = int(torch.prod(torch.tensor([2 * n - 1 for n in window])))
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, 1))
            self.register_buffer("relative_position_index", relative_index(window))
        if extra:
            self.biases = nn.Parameter(torch.zeros(extra))

    def forward(self, x: Any, mask: Any = None) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-2, -1) / WIDTH**0.5
        if hasattr(self, "relative_position_bias_table"):
            index = self.relative_position_index
            scores = scores + self.relative_position_bias_table[index.flatten(), 0].reshape(index.shape)
        if hasattr(self, "biases"):
            scores = scores + self.biases
        if mask is not None:
            scores = scores.reshape(-1, len(mask), *scores.shape[-2:]) + mask
        return self.proj(scores.reshape(len(x), *scores.shape[-2:]).softmax(-1) @ v)


def mask_of(grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> Any:
    """As in Swin: tokens from both sides of a border that the shift made do not see each other."""
    region = torch.zeros(tuple(grid))
    for axis, (n, w, s) in enumerate(zip(grid, window, shift, strict=True)):
        part = torch.zeros(n)
        part[n - w : n - s], part[n - s :] = 1, 2
        shape = [1] * region.ndim
        shape[axis] = n
        region = region * 3 + part.reshape(shape)
    tokens = cut(region[None, ..., None], window)[..., 0]
    return (tokens[:, :, None] != tokens[:, None, :]) * -100.0


class Block(nn.Module):
    """A block of windows, with the names that different libraries use."""

    def __init__(self, kind: str, grid: tuple[int, ...], window: tuple[int, ...]) -> None:
        super().__init__()
        self.kind, self.input_resolution = kind, grid
        table = kind in ("swin", "swin, shifted")
        self.attn = Attention(window, table, extra=(window[0] ** 2,) * 2 if kind == "own table" else ())
        if kind == "twins":
            self.ws = window[0]
        elif kind == "davit":
            self.window_size = list(window)
        else:
            self.window_size = window
        if "shifted" in kind or table:
            self.shift_size = tuple(n // 2 for n in window) if "shifted" in kind else (0,) * len(window)
            mask = mask_of(grid, window, self.shift_size) if "shifted" in kind else None
            self.register_buffer("attn_mask", mask)

    def forward(self, x: Any) -> Any:
        grid = tuple(x.shape[1:-1])
        assert grid == tuple(self.input_resolution), "input feature has wrong size"
        window = (self.ws,) * len(grid) if self.kind == "twins" else tuple(self.window_size)
        shift = getattr(self, "shift_size", (0,) * len(grid))
        axes = tuple(range(1, 1 + len(grid)))
        moved = torch.roll(x, tuple(-s for s in shift), axes) if any(shift) else x
        out = put_together(self.attn(cut(moved, window), getattr(self, "attn_mask", None)), window, grid)
        return torch.roll(out, shift, axes) if any(shift) else out


class Net(nn.Module):
    def __init__(self, kind: str, grid: tuple[int, ...] = (8, 8), window: tuple[int, ...] = (4, 4)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = (nn.Conv2d if len(grid) == 2 else nn.Conv3d)(3, WIDTH, 2, 2)
        self.patches_resolution, self.patch_size = list(grid), 2
        self.block, self.head = Block(kind, grid, window), nn.Linear(WIDTH, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.block(self.proj(x).movedim(1, -1)).flatten(1, -2).mean(1))


def grown(kind: str, **sizes: Any) -> tuple[nn.Module, Any]:
    net = Net(kind, **sizes).eval()
    grid = tuple(net.block.input_resolution)
    return net, rkt.rescale(net, 2, torch.zeros(1, 3, *(2 * n for n in grid)), mode="supersample")


def assert_copies_give_copies(block: nn.Module, larger: nn.Module) -> None:
    x = torch.randn(2, *block.input_resolution, WIDTH)
    copies = x
    for axis in range(1, x.ndim - 1):
        copies = copies.repeat_interleave(2, axis)
    with torch.no_grad():
        small, out = block(x), larger(copies)
    for axis in range(1, x.ndim - 1):
        small = small.repeat_interleave(2, axis)
    assert torch.allclose(out, small, atol=1e-5)


@pytest.mark.parametrize("kind", ["twins", "davit", "plain", "plain, shifted", "swin", "swin, shifted"])
def test_windows_shifts_masks_and_resolutions_grow(kind: str, tmp_path: Any) -> None:
    net, larger = grown(kind)
    assert_copies_give_copies(net.block, larger.block)
    assert (larger.block.input_resolution, larger.patches_resolution, larger.patch_size) == ((16, 16), [16, 16], 2)
    held = larger.block.ws if kind == "twins" else larger.block.window_size
    assert held == {"twins": 8, "davit": [8, 8]}.get(kind, (8, 8))
    assert "do not grow" not in "".join(larger.rekernel_plan.warnings)
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(Net(kind).eval(), tmp_path / "out.safetensors")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(x), larger(x))


@pytest.mark.parametrize("kind", ["plain", "swin, shifted"])
def test_windows_of_a_volume(kind: str) -> None:
    net, larger = grown(kind, grid=(4, 8, 4), window=(2, 4, 2))
    assert larger.block.window_size == (4, 8, 4)
    assert_copies_give_copies(net.block, larger.block)


class Stage(nn.Module):
    """As in Video Swin: the stage makes the mask, from sizes of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.window_size, self.shift_size = (4, 4), (2, 2)
        self.block = Block("swin, shifted", (8, 8), (4, 4))
        self.block.register_buffer("attn_mask", None)

    def forward(self, x: Any) -> Any:
        self.block.attn_mask = mask_of(x.shape[1:-1], self.window_size, self.shift_size)
        return self.block(x)


def test_a_stage_that_holds_the_sizes_of_its_blocks_follows() -> None:
    net = Net("swin, shifted").eval()
    net.block = Stage()
    net.block.input_resolution = (8, 8)
    larger = rkt.rescale(net, 2, torch.zeros(1, 3, 16, 16), mode="supersample")
    assert (larger.block.window_size, larger.block.shift_size) == ((8, 8), (4, 4))
    assert_copies_give_copies(net.block, larger.block)


def test_an_index_of_three_axes_is_that_of_video_swin() -> None:
    """Written anew from its definition: rows of the table count distances, the last axis fastest."""
    size = (2, 3, 2)
    tokens = [(t, y, x) for t in range(2) for y in range(3) for x in range(2)]
    expected = [[((a[0] - b[0] + 1) * 5 + a[1] - b[1] + 2) * 3 + a[2] - b[2] + 1 for b in tokens] for a in tokens]
    assert relative_index(size).tolist() == expected


def test_windows_with_a_table_of_their_own_stay_and_are_named() -> None:
    larger = grown("own table")[1]
    assert larger.block.window_size == (4, 4)
    assert "in windows of 4x4 tokens, which do not grow (there is no table" in "".join(larger.rekernel_plan.warnings)


@pytest.mark.parametrize(
    ("scale", "options"), [(1.5, {}), (2, {"exclude": ["*relative_position_bias_table"]})], ids=["1.5", "excluded"]
)
def test_a_mask_of_another_grid_is_refused_with_a_way_out(scale: float, options: dict[str, Any]) -> None:
    """Windows that stay would be masked as others were: Swin views the masks as those of every fourth window."""
    net = Net("swin, shifted").eval()
    with pytest.raises(
        RekernelError, match=r"block\.attn: attends in windows of 4x4 tokens with a mask.*mode='absorb'"
    ):
        rkt.rescale(net, scale, torch.zeros(1, 3, 16, 16), mode="supersample", **options)
    absorbed = rkt.rescale(net, 2, torch.zeros(1, 3, 16, 16))
    assert absorbed.block.window_size == (4, 4) and absorbed.patch_size == 4
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(absorbed(x), net(nn.functional.avg_pool2d(x, 2)), atol=1e-5)


@pytest.mark.parametrize("kind", ["ViTDet", "SAM"])
def test_tables_that_the_model_interpolates_follow_by_themselves(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shared = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 8,
        "window_size": 3,
    }  # fmt: skip
    if kind == "ViTDet":
        config = transformers.VitDetConfig(
            **shared,
            mlp_ratio=1,
            pretrain_image_size=48,
            window_block_indices=[0],
            use_relative_position_embeddings=True,
        )
        net = transformers.VitDetModel(config).eval()
        block = lambda model: model.encoder.layer[0]  # noqa: E731
    else:
        config = transformers.SamVisionConfig(
            **shared, mlp_dim=16, output_channels=8, global_attn_indexes=[1], use_abs_pos=False
        )
        net = transformers.SamVisionModel(config).eval()
        block = lambda model: model.vision_encoder.layers[0]  # noqa: E731
    larger = rkt.rescale(net, 2, {"pixel_values": torch.zeros(1, 3, 48, 48)}, mode="supersample")
    assert (block(larger).window_size, block(net).window_size) == (6, 3)
    assert "do not grow" not in "".join(larger.rekernel_plan.warnings)
    for model in (net, larger):  # without positions, copies of tokens give copies
        for name, parameter in model.named_parameters():
            if "rel_pos" in name:
                nn.init.zeros_(parameter)
    x = torch.randn(1, 16, 6, 6) if kind == "ViTDet" else torch.randn(1, 6, 6, 16)
    spatial = (2, 3) if kind == "ViTDet" else (1, 2)
    copies = x.repeat_interleave(2, spatial[0]).repeat_interleave(2, spatial[1])
    with torch.no_grad():
        small, out = block(net)(x), block(larger)(copies)
    small, out = (a[0] if isinstance(a, tuple) else a for a in (small, out))
    assert torch.allclose(out, small.repeat_interleave(2, spatial[0]).repeat_interleave(2, spatial[1]), atol=1e-5)


def test_a_file_says_that_windows_stay(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    import rekernel as rk

    path = tmp_path / "in.safetensors"
    save_file(Net("swin, shifted").state_dict(), path)
    hints = rk.Hints(stride={"proj": 2}, padding={"proj": 0}, mode={"proj": "absorb"})
    said = {mode: "".join(rk.plan_checkpoint(path, 2, mode=mode, hints=hints).warnings) for mode in ("auto", "absorb")}
    assert "relative positions stay, and so do windows of attention" in said["auto"]
    assert "relative positions" not in said["absorb"]
