"""Token grids that grow: learned position embeddings are values on a grid, class tokens are not."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402


class Tokens(nn.Module):
    """A small ViT in timm's manner: patches, class token, a learned table, a block of attention."""

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, prefix, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, prefix + grid[0] * grid[1], 8))
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed
        return self.mix(x + nn.functional.scaled_dot_product_attention(x, x, x))


@pytest.mark.parametrize(("grid", "prefix"), [((4, 4), 1), ((3, 5), 0), ((4, 6), 3)])
def test_a_growing_token_grid(grid: tuple[int, int], prefix: int) -> None:
    torch.manual_seed(0)
    model = Tokens(grid, prefix)
    example = torch.zeros(1, 3, 4 * grid[0], 4 * grid[1])
    larger = rkt.rescale(model, 2, example, modes={"patch": "supersample"})
    change = next(c for c in larger.rekernel_plan.changed if c.name == "pos_embed")
    assert (change.kind, change.prefix) == ("values", prefix)
    assert torch.equal(larger.pos_embed[:, :prefix], model.pos_embed[:, :prefix])
    tokens = larger.pos_embed[:, prefix:].reshape(1, 2 * grid[0], 2 * grid[1], 8).permute(0, 3, 1, 2)
    old = model.pos_embed[:, prefix:].reshape(1, *grid, 8).permute(0, 3, 1, 2)
    means = nn.functional.avg_pool2d(tokens, 2)
    assert (means - old).norm() / old.norm() < 0.35  # random tables are not smooth
    assert larger(torch.zeros(1, 3, 8 * grid[0], 8 * grid[1])).shape == (1, prefix + 4 * grid[0] * grid[1], 8)
    assert "attention looks at" in "".join(larger.rekernel_plan.warnings)


def test_constant_tables_stay_constant() -> None:
    model = Tokens((4, 4), 1)
    nn.init.constant_(model.pos_embed, 3.0)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), modes={"patch": "supersample"})
    assert torch.allclose(larger.pos_embed, torch.full((1, 65, 8), 3.0), atol=1e-5)


def test_an_absorbing_patch_embedding_leaves_the_table() -> None:
    model = Tokens((4, 4), 1)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16))
    assert [c.name for c in larger.rekernel_plan.changed] == ["patch.weight"]
    assert larger(torch.zeros(1, 3, 32, 32)).shape == (1, 17, 8)


def test_patches_that_cannot_grow_by_the_scale_stay_and_the_table_grows(tmp_path: Any) -> None:
    """As from 224 to 384 pixels with patches of 16."""
    model = Tokens((8, 8), 1)
    larger = rkt.rescale(model, 1.125, torch.zeros(1, 3, 32, 32))
    assert [(c.name, c.kind) for c in larger.rekernel_plan.changed] == [("pos_embed", "values")]
    kept = next(c for c in larger.rekernel_plan.changes if c.name == "patch.weight")
    assert kept.reason == "patches of 4x4 pixels stay, since they cannot grow by the scale"
    assert "attention looks at 82 tokens instead of 65" in "".join(larger.rekernel_plan.warnings)
    x = torch.randn(1, 3, 36, 36)
    assert larger(x).shape == (1, 82, 8)
    rkt.save(larger, tmp_path / "out.safetensors")
    assert torch.equal(rkt.load(Tokens((8, 8), 1), tmp_path / "out.safetensors")(x), larger(x))


def test_a_table_through_a_file(tmp_path: Any) -> None:
    model = Tokens((4, 4), 1)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), modes={"patch": "supersample"})
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(Tokens((4, 4), 1), tmp_path / "out.safetensors")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(x), larger(x))


def test_transformers_vit_grows() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32, image_size=64
    )
    larger = rkt.rescale(
        transformers.ViTModel(config), 2, torch.zeros(1, 3, 64, 64), modes={"*patch_embeddings*": "supersample"}
    )
    assert larger(torch.zeros(1, 3, 128, 128)).last_hidden_state.shape == (1, 65, 32)
