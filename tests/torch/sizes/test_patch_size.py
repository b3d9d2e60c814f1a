"""A patch size that modules hold grows with the patches: in attributes, in configurations, by trace and from files."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

SIZE, PATCH, WIDTH = (24, 32), 8, 16


class Patches(nn.Module):
    """Patches of an image, whose rows and columns are counted with `patch_size` in its own form."""

    def __init__(self, patch: Any) -> None:
        super().__init__()
        self.patch_size = patch
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x: Any) -> Any:
        height, width = (self.patch_size,) * 2 if isinstance(self.patch_size, int) else self.patch_size
        rows, columns = x.shape[-2] // height, x.shape[-1] // width
        return self.proj(x).reshape(len(x), -1, rows * columns).transpose(1, 2)


class Tokens(nn.Module):
    """A classifier of patches. `counts` says how its own forward method knows how many there are."""

    def __init__(self, counts: str, patch: Any = PATCH) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.counts = counts
        self.patch_embed = Patches(patch)
        self.image_size = SIZE
        rows, columns = (n // PATCH for n in SIZE)
        self.pos_embed = nn.Parameter(torch.randn(1, rows * columns, WIDTH))
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
        self.head = nn.Linear(WIDTH, 5)
        if counts == "attribute":
            self.patch_size = PATCH
        elif counts == "config":
            self.config = SimpleNamespace(patch_size=PATCH, image_size=list(SIZE), vision_config=None)
        elif counts == "inner config":
            self.config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=[PATCH, PATCH]))
        elif counts == "dict":
            self.cfg = {"patch_size": (PATCH, PATCH), "image_size": SIZE}
        elif counts == "frozen":
            self.config = Frozen()

    def patch(self) -> tuple[int, int]:
        found: Any = {
            "attribute": lambda: self.patch_size, "config": lambda: self.config.patch_size,
            "inner config": lambda: self.config.vision_config.patch_size, "dict": lambda: self.cfg["patch_size"],
            "frozen": lambda: self.config.patch_size, "": lambda: self.patch_embed.patch_size,
        }[self.counts]()  # fmt: skip
        return (found, found) if isinstance(found, int) else tuple(found)

    def forward(self, x: Any) -> Any:
        assert tuple(x.shape[-2:]) == tuple(self.image_size), "wrong size of the image"
        rows, columns = (n // p for n, p in zip(x.shape[-2:], self.patch(), strict=True))
        x = self.patch_embed(x) + self.pos_embed
        return self.head(self.block(x).reshape(len(x), rows, columns, -1)[:, 0].mean(1))


@dataclass(frozen=True)
class Frozen:
    patch_size: int = PATCH


HELD = ("", "attribute", "config", "inner config", "dict", "frozen")
FORMS = {"int": PATCH, "tuple": (PATCH, PATCH), "list": [PATCH, PATCH]}


def through_a_file(net: nn.Module, fresh: nn.Module, folder: Any, scale: str) -> nn.Module:
    """The network after `rekernel convert` and `load`."""
    save_file(net.state_dict(), folder / "in.safetensors")
    arguments = ["convert", str(folder / "in.safetensors"), str(folder / "out.safetensors"), "--scale", scale]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return rkt.load(fresh, folder / "out.safetensors")


def assert_reads_the_reduced_image(net: nn.Module, larger: nn.Module, scale: tuple[int, int] = (2, 2)) -> None:
    x = torch.randn(2, 3, *(n * s for n, s in zip(SIZE, scale, strict=True)))
    with torch.no_grad():
        right, answer = net(nn.functional.avg_pool2d(x, scale)), larger(x)
    assert torch.allclose(answer, right, atol=1e-4 * float(right.norm()))


@pytest.mark.parametrize("counts", HELD)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by", ["trace", "file", "saved"])
def test_an_absorbing_patch_embedding_takes_the_held_sizes_along(
    counts: str, form: str, by: str, tmp_path: Any
) -> None:
    net, fresh = Tokens(counts, FORMS[form]).eval(), Tokens(counts, FORMS[form]).eval()
    if by == "file":
        larger = through_a_file(net, fresh, tmp_path, "2")
    else:
        larger = rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE))
        if by == "saved":
            rkt.save(larger, tmp_path / "saved.safetensors")
            larger = rkt.load(fresh, tmp_path / "saved.safetensors")
    held: Any = larger.patch_embed
    assert type(held.patch_size) is type(FORMS[form])
    assert larger.image_size == (48, 64) and larger.patch() == (16, 16)
    assert net.image_size == SIZE and net.patch() == (8, 8)
    assert_reads_the_reduced_image(net, larger)
    [note] = [w for w in larger.rekernel_plan.warnings if w.startswith("sizes that modules hold")]
    assert "patch_size" in note and "image_size (24, 32) -> (48, 64)" in note


@pytest.mark.parametrize("counts", HELD)
def test_each_side_has_its_own_scale(counts: str) -> None:
    net = Tokens(counts, (PATCH, PATCH)).eval()
    larger = rkt.rescale(net, (2, 3), torch.zeros(1, 3, *SIZE))
    assert larger.patch() == (16, 24) and larger.image_size == (48, 96)
    assert_reads_the_reduced_image(net, larger, (2, 3))


@pytest.mark.parametrize("by", ["trace", "file"])
def test_a_configuration_that_other_models_share_stays_theirs(by: str, tmp_path: Any) -> None:
    shared = SimpleNamespace(patch_size=PATCH, image_size=list(SIZE), vision_config=None)
    net, other, third = (Tokens("config").eval() for _ in range(3))
    for model in (net, other, third):
        model.config = model.patch_embed.config = shared
    if by == "file":
        larger = through_a_file(net, other, tmp_path, "2")
    else:
        larger = rkt.rescale(other, 2, torch.zeros(1, 3, *SIZE), inplace=True)
    assert shared.patch_size == PATCH and third.config is net.config is shared
    assert larger.config.patch_size == 16 and larger.config.image_size == [48, 64]
    assert larger.patch_embed.config is larger.config, "one object before, one object afterwards"
    assert_reads_the_reduced_image(net, larger)


def test_sizes_are_as_before_where_the_rest_fails(tmp_path: Any) -> None:
    net = Tokens("config").eval()
    rkt.save(rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE)), tmp_path / "out.safetensors")
    other = Tokens("config").eval()
    other.head = nn.Linear(WIDTH, 6)
    before = other.config
    with pytest.raises(RekernelError, match="head"):
        rkt.load(other, tmp_path / "out.safetensors")
    assert (other.config, other.image_size, other.patch()) == (before, SIZE, (8, 8))


class Beside(nn.Module):
    """Something whose size only happens to be that of a patch, or is that of what the network gives."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_size, self.size, self.kernel = PATCH, PATCH, PATCH

    def forward(self, x: Any) -> Any:
        return nn.functional.interpolate(x, size=(x.shape[-2] * self.patch_size, x.shape[-1] * self.patch_size))


class Depths(nn.Module):
    """A backbone of tokens and a head outside, which multiplies their grid by the size of a patch."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Tokens("attribute")
        self.backbone.input_size, self.backbone.stride = 7, PATCH
        self.head = Beside()

    def forward(self, x: Any) -> Any:
        tokens = self.backbone.patch_embed(x) + self.backbone.pos_embed
        rows, columns = (n // self.backbone.patch_size for n in x.shape[-2:])
        return self.head(self.backbone.block(tokens).transpose(1, 2).reshape(len(x), -1, rows, columns))


def test_what_lies_outside_the_network_that_reads_the_image_stays_and_is_named() -> None:
    torch.manual_seed(0)
    net = Depths().eval()
    larger = rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE), mode="absorb")
    assert larger.backbone.patch_size == 16
    assert (larger.head.patch_size, larger.head.size, larger.head.kernel) == (PATCH, PATCH, PATCH)
    assert (larger.backbone.input_size, larger.backbone.stride) == (7, PATCH)
    assert "head: its patch_size of 8 stays, since it is outside the network" in "".join(larger.rekernel_plan.warnings)
    assert_reads_the_reduced_image(net, larger)


class Counting(nn.Module):
    """As the layers of BEiT: each divides the image by its own copy of the size of a patch."""

    def __init__(self, layer: nn.Module, patch: int) -> None:
        super().__init__()
        self.layer, self.patch_size = layer, patch

    def forward(self, x: Any, size: tuple[int, int]) -> Any:
        tokens = (size[0] // self.patch_size) * (size[1] // self.patch_size)
        return self.layer(x) * x.new_ones(1, tokens, 1)


class Hierarchy(nn.Module):
    """As Twins: a second embedding of patches, of tokens and of the same size, keeps its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Patches(2), Patches(2)
        self.first.proj, self.second.proj = nn.Conv2d(3, WIDTH, 2, 2), nn.Conv2d(WIDTH, WIDTH, 2, 2)
        self.layer = Counting(nn.Linear(WIDTH, WIDTH), 2)

    def forward(self, x: Any) -> Any:
        tokens = self.layer(self.first(x), tuple(x.shape[-2:]))
        rows, columns = (n // self.first.patch_size for n in x.shape[-2:])
        return self.second(tokens.transpose(1, 2).reshape(len(x), -1, rows, columns)).mean(1)


def test_layers_of_the_backbone_follow_and_later_patches_keep_their_size() -> None:
    net = Hierarchy().eval()
    larger = rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE))
    assert (larger.first.patch_size, larger.layer.patch_size, larger.second.patch_size) == (4, 4, 2)
    assert_reads_the_reduced_image(net, larger)


class Overlapping(nn.Module):
    """Patches that overlap, counted from their size and step as in TransReID."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch_size, self.stride_size, self.img_size = [8, 8], [4, 4], list(SIZE)
        self.proj = nn.Conv2d(3, WIDTH, 8, 4)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Any) -> Any:
        grid = [(n - p) // t + 1 for n, p, t in zip(x.shape[-2:], self.patch_size, self.stride_size, strict=True)]
        return self.head(self.proj(x).reshape(len(x), WIDTH, *grid)[:, :, 0].mean(-1))


@pytest.mark.parametrize("mode", ["auto", "supersample"])
def test_size_and_step_of_overlapping_patches(mode: str) -> None:
    net = Overlapping().eval()
    if mode == "auto":
        larger = rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE))
        assert (larger.patch_size, larger.stride_size, larger.img_size) == ([16, 16], [8, 8], [48, 64])
        assert_reads_the_reduced_image(net, larger)
    else:  # the patches grow, their step stays, and the code counts one patch less than there are
        with pytest.raises(RekernelError, match="does not run"):
            rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE), mode=mode)


class Stem(nn.Module):
    """Patches cut by two convolutions: the size of a patch is that of neither."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch_size, self.img_size, self.config = 4, SIZE, SimpleNamespace(patch_size=2)  # the other size stays
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, WIDTH, 3, 2, 1))
        self.pos_embed = nn.Parameter(torch.randn(1, 48, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Any) -> Any:
        rows, columns = (n // self.patch_size for n in x.shape[-2:])
        tokens = self.stem(x).reshape(len(x), WIDTH, rows * columns).transpose(1, 2) + self.pos_embed
        return self.head(tokens[:, 0])


def test_a_patch_that_several_convolutions_cut() -> None:
    net = Stem().eval()
    larger = rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE))
    assert (larger.patch_size, larger.img_size, larger.config.patch_size) == (8, (48, 64), 2)
    assert_reads_the_reduced_image(net, larger)


@pytest.mark.parametrize("counts", ["attribute", "config", "dict"])
@pytest.mark.parametrize("by", ["trace", "file"])
def test_supersampled_patches_keep_their_size_and_the_image_grows(counts: str, by: str, tmp_path: Any) -> None:
    net = Tokens(counts).eval()
    net.grid_size, net.patch_embed.num_patches, net.patch_embed.grid_size = (3, 4), 12, [3, 4]
    fresh = copy.deepcopy(net)
    if by == "file":
        save_file(net.state_dict(), tmp_path / "in.safetensors")
        arguments = ["convert", str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors"), "--scale", "2"]
        result = CliRunner().invoke(main, [*arguments, "--mode", "supersample", "--grid", "pos_embed=3,4"])
        assert result.exit_code == 0, result.output + result.stderr
        larger = rkt.load(fresh, tmp_path / "out.safetensors")
    else:
        larger = rkt.rescale(net, 2, torch.zeros(1, 3, *SIZE), mode="supersample")
    assert larger.patch() == (8, 8) and larger.image_size == (48, 64)
    assert (larger.grid_size, larger.patch_embed.num_patches, larger.patch_embed.grid_size) == ((6, 8), 48, [6, 8])
    if counts == "config":
        assert larger.config.image_size == [48, 64]  # the table grew, so a model built from it fits
    assert larger(torch.zeros(1, 3, 48, 64)).shape == (1, 5)


def test_an_image_that_is_resampled_in_front_changes_no_size() -> None:
    net = Tokens("attribute").eval()
    larger = rkt.rescale(net, 1.3, torch.zeros(1, 3, *SIZE), mode="absorb")
    assert larger.rekernel_plan.resamples
    assert (larger.patch_size, larger.image_size) == (PATCH, SIZE)


def test_a_lookalike_elsewhere_stays() -> None:
    """A recurrent layer of 24 inputs has an `input_size`, which is not a size of the image."""
    net = Tokens("attribute").eval()
    net.image_size = (24, 24)
    net.pos_embed = nn.Parameter(torch.randn(1, 9, WIDTH))
    net.memory = nn.LSTM(24, 3)
    larger = rkt.rescale(net, 2, torch.zeros(1, 3, 24, 24))
    assert larger.memory.input_size == 24 and larger.image_size == (48, 48)
