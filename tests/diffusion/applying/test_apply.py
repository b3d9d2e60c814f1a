"""One call sets a pipeline up and another puts it back: `apply`, `detach`, and what `pipe.rekernel` shows between."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import SupersampledKernels, UpsampleGuidance, apply, detach  # noqa: E402

from ..conftest import quiet  # noqa: E402

OPTIONS = {"prompt": "a cat", "num_inference_steps": 5, "output_type": "np"}


def picture(pipe, size=32, **more):
    """Of `size` pixels; 16 is the trained size."""
    options = {**OPTIONS, "generator": torch.Generator().manual_seed(0), "height": size, "width": size}
    return pipe(**{**options, **more}).images[0]


def state(pipe):
    """The names on the pipeline, whose call sets some of their values, and all that is on its network."""
    return set(vars(pipe)), dict(vars(pipe.unet))


@pytest.fixture
def pixels(nets):
    pipe = diffusers.DDIMPipeline(nets.unconditioned(), diffusers.DDIMScheduler())
    return quiet(pipe)


@pytest.mark.parametrize("which", ["sd", "sdxl"])
def test_one_call_guides_as_the_parts_do_and_detach_restores(nets, request, which):
    pipe = request.getfixturevalue(which)
    plain = picture(pipe)
    before = state(pipe)
    with UpsampleGuidance().attach(pipe):
        wanted = picture(pipe)
    apply(pipe)
    assert "theta 1, eta 0.6" in repr(pipe.rekernel) and pipe.rekernel.kernels is None
    with nets.passes(pipe.unet) as sizes:
        found = picture(pipe)
    assert np.array_equal(found, wanted) and not np.array_equal(found, plain)
    assert sizes.count((16, 16)) == 5 and sizes.count((8, 8)) == 3
    detach(pipe)
    detach(pipe)  # once more does nothing
    assert state(pipe) == before and np.array_equal(picture(pipe), plain)


def test_a_cell_of_a_notebook_may_run_twice(sd):
    first = apply(sd, size=(32, 32)).guidance
    second = apply(sd, 2, guidance={"theta": 1.2}, kernels=True).guidance
    assert not first.attached and sd.rekernel.guidance is second and sd.rekernel.kernels.attached
    assert "theta 1.2, eta 0.6" in repr(sd.rekernel)
    with pytest.raises(rk.RekernelError, match="theta='x' is not a finite number"):
        apply(sd, guidance={"theta": "x"})
    assert sd.rekernel.guidance is second and second.attached
    with pytest.raises(rk.RekernelError, match=r"no positions that rekernel knows"):
        apply(sd, positions=True)
    assert sd.rekernel.guidance.attached and sd.rekernel.kernels.attached  # as before the call that failed
    detach(sd)
    assert not hasattr(sd, "rekernel")
    with apply(sd):
        assert sd.rekernel.guidance.attached
    assert not hasattr(sd, "rekernel") and "_diffusers_hook" not in vars(sd.unet)


def test_what_was_attached_by_hand_is_listed_and_named(sd):
    UpsampleGuidance(2).attach(sd)  # no handle
    kernels = SupersampledKernels(2).attach(sd)
    assert sd.rekernel.guidance.attached and sd.rekernel.kernels is kernels
    for again in (lambda: UpsampleGuidance(2).attach(sd), lambda: apply(sd)):
        with pytest.raises(rk.RekernelError, match=r"attached already; .*rekernel\.diffusion\.detach\(pipe\)"):
            again()
    kernels.remove()
    assert sd.rekernel.kernels is None and sd.rekernel.guidance.attached
    detach(sd.unet)
    assert not hasattr(sd, "rekernel") and "_diffusers_hook" not in vars(sd.unet)


def test_a_cascade_where_it_is_asked_for(nets, sd):
    record = apply(sd, size=(64, 64), cascade=[0.6, 0.4])
    assert repr(record.cascade) == (
        "GuidedCascade(StableDiffusionPipeline, 16x16 -> 32x32 at 0.6 -> 64x64 at 0.4, guided)"
    )
    made = record.cascade(**OPTIONS).images[0]
    assert made.shape == (64, 64, 3) and record.guidance.attached
    apply(sd, 2, cascade=True)
    assert "16x16 -> 32x32 at 0.5, guided" in repr(sd.rekernel)
    assert sd.rekernel.cascade(**OPTIONS).images[0].shape == (32, 32, 3)
    with pytest.raises(rk.RekernelError, match="a cascade has to know its size"):
        apply(sd, cascade=0.5)
    assert "16x16 -> 32x32 at 0.5, guided" in repr(sd.rekernel)
    detach(sd)
    assert not hasattr(sd, "rekernel")


@pytest.mark.parametrize(
    "asked", [{"size": 16}, {"size": (16, 16)}, {"size": "16x16"}, {"size": 8}, {"scale": 1}, {"scale": 0.5}]
)
def test_the_trained_size_or_less_warns_and_attaches_nothing(sd, asked):
    before = state(sd)
    with pytest.warns(rk.RekernelWarning, match=r"nothing is attached to UNet2DConditionModel of Stable") as seen:
        apply(sd, **asked)
    assert len(seen) == 1 and state(sd) == before


@pytest.mark.parametrize("part", [UpsampleGuidance(2), UpsampleGuidance(), SupersampledKernels(2)])
@pytest.mark.parametrize("size", [16, 8])
def test_a_call_at_the_trained_size_or_less_warns_once_and_is_not_changed(sd, part, size):
    plain = picture(sd, size)
    with part.attach(sd):
        with pytest.warns(
            rk.RekernelWarning, match=rf"{size}x{size} pixels, and .* was trained at 16x16 pixels"
        ) as seen:
            assert np.array_equal(picture(sd, size), plain)
        assert len(seen) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error", rk.RekernelWarning)
            assert np.array_equal(picture(sd, size), plain)
            assert not np.array_equal(picture(sd, 32), plain[:1])


def test_a_scale_that_would_go_below_the_trained_size_is_cut(nets, sd):
    with UpsampleGuidance(50).attach(sd), nets.passes(sd.unet) as sizes:
        with pytest.warns(rk.RekernelWarning, match=r"takes the scale 1.5x1.5 instead of 50x50"):
            found = picture(sd, 24)
        assert set(sizes) == {(12, 12), (8, 8)}
    with UpsampleGuidance("auto").attach(sd):
        assert np.array_equal(picture(sd, 24), found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scale": (1024, 1024)}, r"size=\(1024.0, 1024.0\)|size=\(1024, 1024\)"),
        ({"scale": 2, "size": 32}, "give one of them"),
        ({"size": (33, 32)}, r"size: 32x33 does not fit .* multiples of 2; 32x32 or 32x34 do"),
        ({"size": "large"}, r"size: 'large' is not a size"),
        ({"guidance": False}, "there is nothing to attach"),
        ({"guidance": {"zeta": 1}}, "no option zeta"),
        ({"cascade": 2, "size": 32}, "cascade=2 must be True, False, a strength above 0"),
        ({"cascade": "yes", "size": 32}, "cascade='yes' must be True, False, a strength above 0"),
        ({"kernels": "optimal"}, r"must be True, False, .*did you mean kernels=\{'method': 'optimal'\}"),
        ({"size": 32, "theta": 2}, r"pass guidance=\{'theta': 2\}"),
        ({"sise": 32}, r"apply has no argument sise=; did you mean size=\?"),
    ],
)
def test_slips_are_one_line_and_change_nothing(sd, arguments, said):
    before = state(sd)
    with pytest.raises(rk.RekernelError, match=said) as error:
        apply(sd, **arguments)
    assert "\n" not in str(error.value) and state(sd) == before


@pytest.mark.parametrize(
    "options",
    [
        {"theta": "1"}, {"theta": 1e9}, {"theta": -1}, {"theta": True}, {"theta": float("nan")}, {"eta": "x"},
        {"eta": 2}, {"start": "a"}, {"stop": None, "start": "b"}, {"log_snr": 3}, {"log_snr": ("a", "b")},
        {"scale": 100},
    ],
)  # fmt: skip
def test_settings_that_are_no_settings_are_one_line(options):
    with pytest.raises(rk.RekernelError) as error:
        UpsampleGuidance(**{"scale": 2, **options})
    assert "\n" not in str(error.value)


def test_a_network_alone_has_the_defaults_of_its_pipeline_or_says_that_it_does_not(nets, sd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", rk.RekernelWarning)
        with UpsampleGuidance(2).attach(sd.unet, scheduler=sd.scheduler) as alone:
            assert "theta 1, eta 0.6, U nearest" in repr(alone)
    with (
        pytest.warns(rk.RekernelWarning, match=r"theta 1 and eta 1 are taken\. Attach to the pipeline"),
        UpsampleGuidance(2).attach(nets.unet, scheduler=nets.ddim),
    ):
        pass
    with pytest.raises(rk.RekernelError, match=r"apply takes a pipeline, and this is a UNet2DConditionModel"):
        apply(sd.unet)
    with pytest.raises(rk.RekernelError, match="has no unet and no transformer"):
        detach(sd.scheduler)


def test_pipelines_of_pixels(pixels):
    with pytest.raises(rk.RekernelError, match="its call takes no height and width"):
        apply(pixels)
    apply(pixels, size=16, cascade=True)
    assert "theta 1.5, eta 1" in repr(pixels.rekernel)
    assert pixels.rekernel.cascade(num_inference_steps=2).images[0].size == (16, 16)
    detach(pixels)
    assert not hasattr(pixels, "rekernel") and pixels.unet.config.sample_size == 8


def test_a_size_that_apply_was_given_is_named_until_it_is_passed(sd):
    record = apply(sd, size="48x32")
    assert "size: 48x32; pass height=32, width=48 to the pipeline" in repr(record) and len(repr(record)) < 120
    assert "<b>Attached</b>" in record._repr_html_() and "height=32, width=48" in record._repr_html_()
    with pytest.warns(rk.RekernelWarning, match="pass height=32, width=48 to the pipeline") as seen:
        picture(sd, 16)
    assert [warning.filename for warning in seen] == [__file__]  # not a line of rekernel, diffusers or torch
    assert apply(sd, size="auto").size is None


def test_a_cascade_up_to_the_trained_size_is_a_call_of_the_pipeline(sd):
    plain, before = picture(sd, 16), state(sd)
    with pytest.warns(rk.RekernelWarning, match="nothing is attached"):
        apply(sd, size=16, cascade=True)
    assert np.array_equal(sd.rekernel.cascade(**OPTIONS, generator=torch.Generator().manual_seed(0)).images[0], plain)
    detach(sd)
    assert state(sd) == before


def test_a_cascade_that_was_not_asked_for_says_how_to_make_one(sd):
    cascade = apply(sd, size=32).cascade
    assert not cascade
    with pytest.raises(rk.RekernelError, match=r"apply\(pipe, size=.*, cascade=True\) makes one"):
        cascade("a cat")
    with pytest.raises(rk.RekernelError, match=r"load it first: DiffusionPipeline\.from_pretrained\('sdxl'\)"):
        apply("sdxl", size=256)
