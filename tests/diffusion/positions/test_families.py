"""Rescaled positions on a transformer of each family, with random weights."""

from __future__ import annotations

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from rekernel.diffusion import RescaledPositions, UpsampleGuidance  # noqa: E402
from rekernel.diffusion.positions.frequencies import METHODS  # noqa: E402

from .families import FAMILIES, attention  # noqa: E402

ROTARY = {name: family for name, family in FAMILIES.items() if family.block}
PLAIN = {"method": "interpolate", "temperature": False}


@pytest.fixture(scope="module")
def made():
    """Networks by family, each made once."""
    kept = {}
    return lambda name: kept[name] if name in kept else kept.setdefault(name, FAMILIES[name].made())


def state(net):
    """The attributes of every part, by identity, so that whatever is left behind is seen."""
    return {path: {n: id(v) for n, v in vars(m).items()} for path, m in net.named_modules()}


def attached(family, net, scale=2, **options):
    return RescaledPositions(scale, **options).attach(net, scheduler=family.scheduler)


def methods(name):
    return METHODS if name in ROTARY else ("interpolate",)


@pytest.mark.parametrize("name", FAMILIES)
def test_above_the_trained_size_at_it_and_after_removal(made, name):
    family, net = FAMILIES[name], made(name)
    small, large, before = family.run(net), family.run(net, 2), state(net)
    changed = []
    for method in methods(name):
        with attached(family, net, method=method, temperature=False) as positions:
            assert f"on {type(net).__name__} (experimental)" in repr(positions)
            changed.append(family.run(net, 2))
            same = family.spread and method == "interpolate"
            assert changed[-1].shape == large.shape and ((changed[-1] - large).abs().max() < 1e-5) == same
            positions.disable()
            assert torch.equal(family.run(net, 2), large)
            positions.enable()
            assert torch.equal(family.run(net, 2), changed[-1])
        assert state(net) == before and torch.equal(family.run(net, 2), large)
        with attached(family, net, 1, method=method):
            assert torch.equal(family.run(net), small)
    for i, one in enumerate(changed):
        assert all((one - other).abs().max() > 1e-6 for other in changed[:i])


@pytest.mark.parametrize("name", ROTARY)
def test_interpolated_tables_hold_the_trained_ones(made, name):
    """The token at (2i, 2j) is turned as the trained token at (i, j)."""
    family, net = FAMILIES[name], made(name)
    [trained] = family.tables(net)
    with attached(family, net, **PLAIN):
        [found] = family.tables(net, 2)
    rows, columns = family.tokens[-2:]
    frames = len(trained) // (rows * columns)
    trained, found = trained.reshape(frames, rows, columns, -1), found.reshape(frames, 2 * rows, 2 * columns, -1)
    assert (found[:, ::2, ::2] - trained).abs().max() < family.exact
    assert (found[:, 1::2, ::2] - trained).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "block", "text"),
    [
        ("flux", "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: torch.stack(image_rotary_emb)[:, :3]),
        ("flux 2", "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: torch.stack(image_rotary_emb)[:, :3]),
        ("qwen", "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: image_rotary_emb[1]),
        ("lumina 2", "context_refiner.0", lambda *a, **_k: a[2]),
        ("z-image", "context_refiner.0", lambda *a, **_k: a[2]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_text_keeps_its_trained_positions(made, name, block, text):
    """Those of Qwen-Image begin behind the image, so they would move with its size."""
    family, net = dataclasses.replace(FAMILIES[name], block=block, table=text), made(name)
    [trained] = family.tables(net)
    with attached(family, net, method="yarn"):
        [found] = family.tables(net, 2)
    assert (found - trained).abs().max() < 1e-5
    if name == "qwen":
        [moved] = family.tables(net, 2)
        assert (moved - trained).abs().max() > 0.1


@pytest.mark.parametrize("name", ROTARY)
def test_each_axis_by_its_own_scale(made, name):
    family, net = FAMILIES[name], made(name)
    still = (1,) * (len(family.grid) - 2)
    with attached(family, net, (*still, 2, 1), **PLAIN):
        [tall] = family.tables(net, (*still, 2, 1))
    with attached(family, net, (*still, 2, 2), **PLAIN):
        [both] = family.tables(net, 2)
    [trained] = family.tables(net)
    assert len(tall) == 2 * len(trained) == len(both) // 2
    columns = family.tokens[-1]
    assert (tall.unflatten(0, (-1, columns))[::2].flatten(0, 1) - trained).abs().max() < family.exact


@pytest.mark.parametrize("name", FAMILIES)
def test_temperature_by_the_definition_of_attention(made, name):
    """Every logit of attention over image tokens is multiplied, and no other."""
    family, net = FAMILIES[name], made(name)
    n = math.prod(family.tokens) * 4
    factor = math.log(n) / math.log(n / 4)
    with attached(family, net, method="interpolate", temperature=True):
        found = family.run(net, 2)
    with attached(family, net, **PLAIN):
        plain = family.run(net, 2)
        with attention(factor, n):
            wanted = family.run(net, 2)
        with attention(factor**0.5, n):
            half = family.run(net, 2)
    assert (found - plain).abs().max() > 1e-5
    assert torch.allclose(found, wanted, atol=(wanted - plain).abs().max().item() / 50)
    with attached(family, net, method="interpolate", temperature=0.5):
        assert torch.allclose(family.run(net, 2), half, atol=(wanted - plain).abs().max().item() / 50)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_level_of_guidance_gets_its_own_scale(made, name):
    """The same as guidance whose passes are run one by one: the lowest at trained positions, the middle one at 2."""
    family, net = FAMILIES[name], made(name)
    with UpsampleGuidance(4, theta=0.9, eta=1.0).attach(net, scheduler=family.scheduler):
        plain = family.run(net, 4)
        with attached(family, net, 4, method="yarn" if name in ROTARY else "interpolate"):
            if family.block:
                tables = family.tables(net, 4)
            both = family.run(net, 4)
    assert (both - plain).abs().max() > 1e-5
    if family.block:
        [trained] = family.tables(net)
        assert [len(table) for table in tables] == [16 * len(trained), 4 * len(trained), len(trained)]
        assert (tables[2] - trained).abs().max() <= (family.exact if family.spread else 0)
        with attached(family, net, 2, method="yarn"):
            [middle] = family.tables(net, 2)
        assert torch.equal(tables[1], middle)
