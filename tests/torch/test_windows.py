"""Attention in windows whose grid grows: the windows and their tables of relative positions grow with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402
from rekernel.torch.layers.relative_positions import relative_index  # noqa: E402

GROWS = {"*patch_embeddings*": "supersample"}
TABLE = "*relative_position_bias_table"


def swin(depths: tuple[int, ...] = (2,), window: int = 4, size: int = 64) -> Any:
    config = transformers.SwinConfig(
        depths=list(depths), num_heads=[2] * len(depths), embed_dim=16, image_size=size, window_size=window
    )
    return transformers.SwinModel(config, add_pooling_layer=False).eval()


def with_tables(model: Any, check: Any) -> Any:
    """Random weights, and tables that fall off with distance, as trained ones do."""
    check.revived(model)
    for module in model.modules():
        if hasattr(module, "relative_position_bias_table"):
            n = module.window_size[0]
            offset = torch.linspace(-1, 1, 2 * n - 1)
            far = (offset[:, None] ** 2 + offset[None, :] ** 2).reshape(-1, 1)
            module.relative_position_bias_table.data = -far * torch.tensor([1.0, 4.0])
    return model


def grid(model: Any, x: Any) -> Any:
    with torch.no_grad():
        tokens = model(x).last_hidden_state
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(x), -1, side, side)


def error(model: Any, larger: Any, x: Any) -> float:
    small = grid(model, torch.nn.functional.avg_pool2d(x, 2))
    reduced = torch.nn.functional.avg_pool2d(grid(larger, x), 2)
    return float((reduced - small).norm() / small.norm())


@pytest.mark.parametrize(("window", "size"), [(4, 64), (7, 56)])
def test_windows_grow_with_their_grid(check: Any, window: int, size: int, tmp_path: Any) -> None:
    model = with_tables(swin(window=window, size=size), check)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, size, size), method="optimal", modes=GROWS)
    first, second = larger.encoder.layers[0].blocks
    assert (first.window_size, first.shift_size) == (2 * window, 0)
    assert (second.window_size, second.shift_size) == (2 * window, 2 * (window // 2))
    # Smooth on the grid of tokens, each of 4 pixels: what the patch embedding aliases is no fault of the windows.
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(noise, size=(2 * size, 2 * size), mode="bicubic")
    kept = rkt.rescale(model, 2, torch.zeros(1, 3, size, size), method="optimal", modes=GROWS, exclude=[TABLE])
    ours, others = error(model, larger, x), error(model, kept, x)
    assert ours < others / 2  # windows of 4: .12 against .37; of 7: .16 against .45
    assert "attention in windows" not in "".join(larger.rekernel_plan.warnings)
    assert f"in windows of {window}x{window} tokens, which do not grow" in "".join(kept.rekernel_plan.warnings)
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(swin(window=window, size=size), tmp_path / "out.safetensors")
    assert torch.equal(grid(loaded, x), grid(larger, x))
    assert model.encoder.layers[0].blocks[1].window_size == window


def test_a_constant_table_stays_constant_and_the_index_is_the_models_own(check: Any) -> None:
    model = swin()
    for name, parameter in model.named_parameters():
        if name.endswith("table"):
            parameter.data.fill_(0.7)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 64, 64), method="optimal", modes=GROWS)
    bias = larger.encoder.layers[0].blocks[0].attention.relative_position_bias
    assert torch.allclose(bias(), torch.full((1, 2, 64, 64), 0.7), atol=1e-6)
    fresh = swin(window=8).encoder.layers[0].blocks[0].attention.relative_position_bias
    assert torch.equal(bias.relative_position_index, fresh.relative_position_index)
    assert torch.equal(relative_index((8, 8)).flatten(), fresh.relative_position_index)


def test_an_absorbing_patch_embedding_leaves_the_windows() -> None:
    larger = rkt.rescale(swin(), 2, torch.zeros(1, 3, 64, 64))
    assert larger.encoder.layers[0].blocks[0].window_size == 4
    assert not larger.rekernel_plan.modules


def test_windows_that_would_not_be_whole_stay_and_are_named() -> None:
    larger = rkt.rescale(swin(window=7, size=56), 1.5, torch.zeros(1, 3, 56, 56), method="optimal", modes=GROWS)
    assert "7x7 tokens, which do not grow (times (1.5, 1.5) is not a whole number)" in "".join(
        larger.rekernel_plan.warnings
    )


def test_merging_of_neighbours_is_named() -> None:
    """Swin's merging takes every second pixel: at 2x those are neighbours half as far apart."""
    larger = rkt.rescale(swin((1, 1)), 2, torch.zeros(1, 3, 64, 64), method="optimal", modes=GROWS)
    assert "encoder.layers.0.downsample: a step over pixels" in "".join(larger.rekernel_plan.warnings)


def test_a_position_network_in_place_of_a_table_is_named() -> None:
    config = transformers.Swinv2Config(depths=[2], num_heads=[2], embed_dim=16, image_size=64, window_size=4)
    larger = rkt.rescale(transformers.Swinv2Model(config), 2, torch.zeros(1, 3, 64, 64), method="optimal", modes=GROWS)
    said = "".join(larger.rekernel_plan.warnings)
    for block in (0, 1):
        assert f"blocks.{block}.attention.self: attention in windows of 4x4 tokens, which do not grow" in said


def test_beit_interpolates_its_table_itself() -> None:
    config = transformers.BeitConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32, image_size=64,
        use_relative_position_bias=True,
    )  # fmt: skip
    larger = rkt.rescale(transformers.BeitModel(config), 2, torch.zeros(1, 3, 64, 64), method="optimal", modes=GROWS)
    assert [c.name for c in larger.rekernel_plan.changed] == ["embeddings.patch_embeddings.projection.weight"]
    assert "attention looks at 65 tokens instead of 17" in "".join(larger.rekernel_plan.warnings)
    assert larger(torch.zeros(1, 3, 128, 128)).last_hidden_state.shape == (1, 65, 32)


def test_a_recipe_for_another_window_is_refused(tmp_path: Any) -> None:
    larger = rkt.rescale(swin(), 2, torch.zeros(1, 3, 64, 64), method="optimal", modes=GROWS)
    rkt.save(larger, tmp_path / "out.safetensors")
    other = swin()
    owner = other.encoder.layers[0].blocks[0].attention.relative_position_bias
    owner.window_size = (2, 8)
    with pytest.raises(RekernelError, match="has no attention in windows of"):
        rkt.load(other, tmp_path / "out.safetensors")
    assert other.encoder.layers[0].blocks[1].window_size == 4


def test_a_recipe_whose_window_and_table_disagree_is_refused() -> None:
    plan = rkt.rescale(swin(), 2, torch.zeros(1, 3, 64, 64), method="optimal", modes=GROWS).rekernel_plan
    module = plan.modules[0]
    huge = tuple(replace(g, kernel=10**6) for g in module.new_geometry)
    model = swin()
    with pytest.raises(RekernelError, match="its table does not fit windows of"):
        rkt.apply_plan(model, replace(plan, modules=(replace(module, new_geometry=huge),)))
    assert model.encoder.layers[0].blocks[0].window_size == 4
