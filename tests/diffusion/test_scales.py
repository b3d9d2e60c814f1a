"""What scale='auto' makes of a size: shapes of the trained area, those enlarged, and everything else per axis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from rekernel.diffusion import SupersampledKernels, UpsampleGuidance  # noqa: E402
from rekernel.diffusion.formulas.sizes import enlargement  # noqa: E402

# As published for SDXL (arXiv 2307.01952, appendix I): height x width, every one a trained size.
SDXL = (
    "512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408 704x1344 "
    "768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024 1024x1024"
)
BUCKETS = [tuple(map(int, size.split("x"))) for size in SDXL.split()]
SIDES = st.integers(16, 512)


@pytest.mark.parametrize("size", [b for pair in BUCKETS for b in (pair, pair[::-1])])
def test_sdxl_s_sizes_and_their_multiples(size):
    assert enlargement(size, (1024, 1024)) == (1.0, 1.0)
    for k in (2, 3, 4):
        larger = tuple(k * n for n in size)
        factors = enlargement(larger, (1024, 1024))
        if min(larger) > 1024:
            assert factors == (k, k)  # so that the low-resolution pass runs at the very size that was trained
        else:
            assert factors == (max(1.0, larger[0] / 1024), max(1.0, larger[1] / 1024))


@pytest.mark.parametrize(
    ("size", "trained", "factors"),
    [
        ((2048, 1792), (1024, 1024), (2, 2)),  # and not 2 by 1.75
        ((512, 1024), (512, 512), (1, 2)),  # a panorama: one axis
        ((512, 4096), (512, 512), (1, 8)),
        ((1024, 4096), (1024, 1024), (1, 4)),  # as high as trained, though 2 times a trained shape
        ((256, 2048), (1024, 1024), (1, 2)),  # of the trained area, but 8 : 1
        ((1024, 1536), (1024, 1024), (1, 1.5)),
        ((32, 24), (8, 8), (4, 3)),  # no whole multiple of a trained shape
        ((1088, 1088), (1024, 1024), (1.0625, 1.0625)),
        ((1048, 1024), (1024, 1024), (1, 1)),  # rounded
        ((1920, 1920), (1024, 1024), (1.875, 1.875)),  # of the trained shape: to the trained size
        ((256, 256), (512, 512), (1, 1)),
        ((832, 480), (480, 832), (1, 1)),  # upright instead of lying
        ((1664, 960), (480, 832), (2, 2)),
        ((64,), (16,), (4,)),
    ],
)
def test_sizes(size, trained, factors):
    assert enlargement(size, trained) == factors


@given(size=st.tuples(SIDES, SIDES), trained=st.tuples(SIDES, SIDES))
def test_of_any_size(size, trained):
    factors = enlargement(size, trained)
    assert min(factors) >= 1
    # Turned by a quarter, the factors are turned.
    assert enlargement(size[::-1], trained[::-1]) == factors[::-1]
    # What is left is no more than the trained size: of area, or of every axis.
    low = [n / f for n, f in zip(size, factors, strict=True)]
    fits = all(n <= m * (1 + 1e-9) for n, m in zip(low, trained, strict=True))
    assert fits or low[0] * low[1] <= 1.05 * trained[0] * trained[1]
    assert enlargement(trained, trained) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("size", "passes"),
    [
        ((9, 7), [(9, 7)]),  # SDXL's 1152x896, a hundredth of it
        ((18, 14), [(18, 14), (9, 7)]),
        ((36, 28), [(36, 28), (18, 14), (9, 7)]),
        ((8, 16), [(8, 16), (8, 8)]),
    ],
)
def test_both_levers_on_a_network_trained_at_many_shapes(nets, size, passes):
    unet = nets.unet
    rescaled = []
    conv = unet.mid_block.resnets[0].conv1
    with (
        UpsampleGuidance().attach(unet, scheduler=nets.ddim),
        SupersampledKernels(method="dilate").attach(unet, scheduler=nets.ddim),
    ):
        nets.call(unet, size=size)  # plans
        handle = conv.register_forward_pre_hook(
            lambda m, args: rescaled.append(getattr(vars(m).get("forward"), "new", None))
        )
        try:
            with nets.passes(unet) as seen:
                nets.call(unet, size=size)
        finally:
            handle.remove()
    assert seen == passes
    assert [layer is not None for layer in rescaled] == [True] * (len(passes) - 1) + [False]
