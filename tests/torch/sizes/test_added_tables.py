"""Tables of positions in other forms than (1, tokens, C): maps, looked up by number, and without their first rows."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402

GRID, WIDTH = (4, 6), 8


class Map(nn.Module):
    """Positions as a map of the grid, added where the channels are last (SAM) or first."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last, self.proj = last, nn.Conv2d(3, WIDTH, 4, 4)
        rows = torch.linspace(-1, 1, GRID[0])[:, None, None].expand(*GRID, WIDTH)
        self.pos_embed = nn.Parameter((rows if last else rows.permute(2, 0, 1))[None].clone())
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Any) -> Any:
        x = self.proj(x)
        x = x.permute(0, 2, 3, 1) + self.pos_embed if self.last else (x + self.pos_embed).permute(0, 2, 3, 1)
        return self.head(x.flatten(1, 2).mean(1))


@pytest.mark.parametrize("last", [True, False])
def test_a_map_of_positions_grows_along_its_two_axes(last: bool, tmp_path: Any) -> None:
    net, example = Map(last), torch.zeros(1, 3, 16, 24)
    larger = rkt.rescale(net, (2, 3), example, mode="supersample")
    table = larger.pos_embed if last else larger.pos_embed.movedim(1, -1)
    assert table.shape == (1, 8, 18, WIDTH)
    assert torch.allclose(table, table[:, :, :1], atol=1e-6), "rows stay rows"
    assert (table.diff(dim=1) > 0).all()
    rkt.save(larger, tmp_path / "out.safetensors")
    x = torch.randn(1, 3, 32, 72)
    assert torch.equal(rkt.load(Map(last), tmp_path / "out.safetensors")(x), larger(x))


class Rows(nn.Module):
    """Positions by number, or those behind the first rows, as CLIP, MAE and ViTPose add them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.proj = kind, nn.Conv2d(3, WIDTH, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        if kind == "by number":
            self.positions = nn.Embedding(25, WIDTH)
            self.register_buffer("position_ids", torch.arange(25)[None], persistent=False)
        else:
            self.pos_embed = nn.Parameter(torch.randn(1, 25, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def table(self) -> Any:
        return self.positions.weight[None] if self.kind == "by number" else self.pos_embed

    def forward(self, x: Any) -> Any:
        x, ahead = self.proj(x).flatten(2).transpose(1, 2), self.cls.expand(len(x), -1, -1)
        if self.kind == "by number":
            return self.head((torch.cat([ahead, x], 1) + self.positions(self.position_ids)).mean(1))
        x = x + self.pos_embed[:, 1:, :]
        x = x + self.pos_embed[:, :1] if self.kind == "first row to all" else torch.cat([ahead, x], 1)
        return self.head(x.mean(1))


@pytest.mark.parametrize("kind", ["by number", "behind the first", "first row to all"])
def test_rows_that_a_model_reads_apart_grow_behind_the_first(kind: str, tmp_path: Any) -> None:
    net, example = Rows(kind), torch.zeros(1, 3, 16, 24)
    larger = rkt.rescale(net, 2, example, mode="supersample")
    [change] = [c for c in larger.rekernel_plan.changed if c.kind == "values"]
    assert (change.prefix, change.view[-3:], change.new_shape[-2]) == (1, (*GRID, WIDTH), 1 + 4 * 24)
    assert torch.equal(larger.table()[:, 0], net.table()[:, 0])
    old = net.table()[0, 1:].reshape(*GRID, WIDTH).permute(2, 0, 1)[None]
    new = larger.table()[0, 1:].reshape(8, 12, WIDTH).permute(2, 0, 1)[None]
    assert torch.allclose(nn.functional.avg_pool2d(new, 2).mean(), old.mean(), atol=0.05)
    rkt.save(larger, tmp_path / "out.safetensors")
    x = torch.randn(1, 3, 32, 48)
    assert torch.equal(rkt.load(Rows(kind), tmp_path / "out.safetensors")(x), larger(x))


def test_what_is_no_table_is_not_taken_for_one() -> None:
    """One value for each channel, and a word's embedding that happens to have as many rows."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj, self.shift = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.ones(1, WIDTH, 1, 1))
            self.words, self.head = nn.Embedding(24, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x: Any) -> Any:
            x = (self.proj(x) + self.shift).flatten(2).transpose(1, 2)
            return self.head(x.mean(1) + self.words(torch.tensor([3])))

    larger = rkt.rescale(Net(), 2, torch.zeros(1, 3, 16, 24), mode="supersample")
    assert [c.name for c in larger.rekernel_plan.changed] == ["proj.weight"]


@pytest.mark.parametrize("kind", ["CLIP", "Siglip", "SAM"])
def test_models_of_transformers_at_the_size_of_their_table(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shared = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 8,
    }  # fmt: skip
    if kind == "SAM":
        more = {"mlp_dim": 16, "output_channels": 8, "window_size": 3, "global_attn_indexes": [1]}
        net = transformers.SamVisionModel(transformers.SamVisionConfig(**shared, **more)).eval()
        nn.init.normal_(net.vision_encoder.pos_embed)
    else:
        config = getattr(transformers, f"{kind}VisionConfig")(**shared, intermediate_size=16)
        net = getattr(transformers, f"{kind}VisionModel")(config).eval()
    larger = rkt.rescale(net, 2, {"pixel_values": torch.zeros(1, 3, 48, 48)}, mode="supersample")
    [change] = [c for c in larger.rekernel_plan.changed if c.kind == "values"]
    assert {(o.old, o.new) for o in change.operators} == {(6, 12)}
    with torch.no_grad():
        larger(pixel_values=torch.zeros(1, 3, 96, 96))
    assert larger.config.image_size == 96 and net.config.image_size == 48
