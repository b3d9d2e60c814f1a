"""Rescaled positions in the stages of a cascade: each stage by its own scale, the first one as trained."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade, RescaledPositions, UpsampleGuidance  # noqa: E402

from ..cascade.families import FAMILIES as PIPELINES  # noqa: E402
from .families import as_complex  # noqa: E402


def seen(pipe, run):
    """The image's rotary tables of all passes, by their number of tokens."""
    found = {}

    def keep(_module, _args, kwargs):
        table = as_complex(kwargs["image_rotary_emb"])[-kwargs["hidden_states"].shape[1] :]
        found.setdefault(len(table), []).append(table)

    handle = pipe.transformer.transformer_blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        return run(), found
    finally:
        handle.remove()


@pytest.mark.parametrize("given", [{"method": "interpolate"}, RescaledPositions("auto", "interpolate", 0.5)])
def test_each_stage_has_its_own_scale(given):
    family = PIPELINES["flux"]
    pipe = family.pipe()
    before = {path: dict(vars(m)) for path, m in pipe.transformer.named_modules()}
    sizes, generator = [16, 32, 64], torch.Generator()
    plain = GuidedCascade(pipe, sizes=sizes, strength=0.5, guidance=False)(
        generator=generator.manual_seed(0), **family.call()
    ).images
    cascade = GuidedCascade(pipe, sizes=sizes, strength=0.5, guidance={"theta": 1.0, "eta": 1.0}, positions=given)
    assert "guided (theta=1, eta=1), positions rescaled" in repr(cascade)
    output, tables = seen(pipe, lambda: cascade(generator=generator.manual_seed(0), **family.call()))
    assert {path: dict(vars(m)) for path, m in pipe.transformer.named_modules()} == before
    small, middle, large = (tables[n] for n in sorted(tables))
    assert len(small) > 4 and all(torch.equal(table, small[0]) for table in small)  # the low-resolution passes too
    for scale, group in ((2, middle), (4, large)):
        grid = group[0].unflatten(0, (int(len(group[0]) ** 0.5), -1))
        assert all(torch.equal(table, group[0]) for table in group)
        assert (grid[::scale, ::scale].flatten(0, 1) - small[0]).abs().max() < 1e-5
    assert output.images.shape == plain.shape and (output.images - plain).abs().max() > 1e-4


def test_positions_that_are_attached_already_are_refused():
    pipe = PIPELINES["flux"].pipe()
    with (
        RescaledPositions(2).attach(pipe) as positions,
        pytest.raises(rk.RekernelError, match=r"positions=.* is attached already; remove\(\) it first"),
    ):
        GuidedCascade(pipe, sizes=[16, 32], positions=positions, guidance=UpsampleGuidance(2))
