"""What a cascade refuses, in plain words, and what it makes of sizes, strengths and options."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade, SupersampledKernels, UpsampleGuidance  # noqa: E402
from rekernel.diffusion.cascade.autoencoder import Autoencoder  # noqa: E402
from rekernel.diffusion.cascade.enlarging import resized  # noqa: E402
from rekernel.diffusion.cascade.sample_form import SampleForm  # noqa: E402
from rekernel.diffusion.cascade.settings import guidance_at, settings_of  # noqa: E402
from rekernel.diffusion.cascade.sizes import Geometry, geometry_of, sizes_up_to, stage_sizes  # noqa: E402
from rekernel.diffusion.cascade.start_picture import as_picture  # noqa: E402
from rekernel.diffusion.denoiser.blocks import stacked_blocks, unstacked_blocks  # noqa: E402
from rekernel.diffusion.formulas.sizes import enlargement  # noqa: E402

from ..conftest import quiet  # noqa: E402
from .families import FAMILIES, noise  # noqa: E402


@pytest.fixture
def pipe(nets):
    return quiet(diffusers.DDIMPipeline(nets.unconditioned(), diffusers.DDIMScheduler()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"give either sizes=\[512, 1024, ...\] or scale=2"),
        ({"sizes": [8, 16], "scale": 2}, "give either sizes="),
        ({"sizes": [8]}, "at least two sizes, the trained size first"),
        ({"sizes": 16}, "is not a list of sizes"),
        ({"sizes": [8, "big"]}, r"sizes: 'big' is not a size; write 1024, \(height, width\) or '1024x768'"),
        ({"sizes": [8, 16.5]}, "16.5 is not a size"),
        ({"sizes": [8, 0]}, "0 is not a size"),
        ({"sizes": [16, 32]}, "the first size, 16x16, is above the trained size 8x8 of DDIMPipeline.*start with 8x8"),
        ({"sizes": [4, 8]}, "the first size, 4x4, is below the trained size 8x8"),
        ({"sizes": [8, 15]}, "15x15 does not fit DDIMPipeline, which takes multiples of 2; 14x14 or 16x16 do"),
        ({"sizes": [8, (15, 16)]}, "16x15 does not fit DDIMPipeline, which takes multiples of 2; 16x14 or 16x16 do"),
        ({"sizes": [8, 16, 16]}, "16x16 after 16x16 does not enlarge the picture"),
        ({"sizes": [8, (16, 6)]}, "6x16 after 8x8 does not enlarge"),
        ({"scale": 1}, "scale=1 must be a number above 1"),
        ({"scale": "auto"}, "scale='auto' must be a number above 1"),
        ({"scale": 0.5}, r"scale=0.5 must be a number above 1, or \(height, width\)$"),
        ({"scale": 1.01}, "scale=1.01 does not enlarge 8x8 by a whole step of 2 pixels"),
        ({"scale": (2, 2, 2)}, "must be a number above 1"),
        ({"scale": 2, "strength": 0}, "strength=0 must be above 0 and at most 1"),
        ({"scale": 2, "strength": 1.5}, "strength=1.5 must be above 0 and at most 1"),
        ({"scale": 2, "strength": "0.5"}, "strength='0.5' must be a number above 0"),
        (
            {"scale": 2, "strength": [0.5, 0.4]},
            r"strength=\[0.5, 0.4\]: 2 given, but the cascade has 1 after its first stage",
        ),
        ({"scale": 4, "strength": [0.5]}, r"strength=\[0.5\]: 1 given, but the cascade has 2 after"),
        ({"scale": 2, "guidance": {"thete": 1}}, "guidance: no option thete; there are theta"),
        ({"scale": 2, "guidance": 1.5}, "guidance=1.5 must be True, False, None, a mapping of options"),
        ({"scale": 2, "kernels": "optimal"}, "kernels='optimal' must be True, False, None, a mapping of options"),
        ({"scale": 2, "positions": "yarn"}, "positions='yarn' must be True, False, None, a mapping of options"),
        ({"scale": 2, "enlarge": "esrgan"}, "enlarge='esrgan' must be 'latent', 'pixels', or a callable"),
        ({"scale": 2, "scheduler": diffusers.DDIMScheduler()}, "DDIMPipeline has its own scheduler"),
    ],
    ids=str,
)
def test_refused_at_once(pipe, options, said):
    with pytest.raises(rk.RekernelError, match=said) as found:
        GuidedCascade(pipe, **options)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"height": 16}, "height=: the sizes are those of the cascade"),
        ({"prompt": "a cat"}, "DDIMPipeline: .*unexpected keyword argument 'prompt'"),
        ({"image": "cat.png"}, "a str is not a picture"),
        ({"image": torch.zeros(1, 3, 8, 16)}, "the given picture of 16x8 pixels has another shape than 16x16; crop it"),
        ({"image": []}, "image: the list of pictures is empty"),
        ({"image": torch.zeros(2, 3, 8, 8), "batch_size": 3}, "2 pictures are given to start from, .*makes 3"),
        ({"image": torch.zeros(1, 3, 8, 8), "start": torch.zeros(1, 3, 8, 8)}, "give one of them"),
    ],
    ids=str,
)
def test_refused_in_a_call(nets, pipe, options, said):
    cascade = GuidedCascade(pipe, scale=2)
    with pytest.raises(rk.RekernelError, match=said):
        cascade(num_inference_steps=4, **options)


@pytest.mark.parametrize("name", ["sizes", "scale", "strength", "guidance", "kernels", "positions", "enlarge"])
def test_what_makes_a_cascade_is_not_given_to_its_call(sd, name):
    with pytest.raises(rk.RekernelError, match=rf"{name}=: belongs to .* write GuidedCascade\(pipe, {name}=...\)"):
        GuidedCascade(sd, [16, 32])("a cat", **{name: 0.3})


def test_noise_beside_a_picture_to_start_from(sd):
    with pytest.raises(rk.RekernelError, match="latents= is the noise of the first stage"):
        GuidedCascade(sd, [16, 32])("a cat", image=torch.zeros(1, 3, 16, 16), latents=torch.zeros(1, 4, 8, 8))


def test_a_network_alone_has_options_of_any_name():
    def denoise(x, t, scale):
        return scale * x

    noise = {"latents": torch.zeros(1, 1, 8, 8), "num_inference_steps": 2}
    cascade = GuidedCascade(denoise, [8, 16], scheduler=diffusers.DDIMScheduler())
    assert cascade(scale=0.5, **noise)[0].shape == (1, 1, 16, 16)


def test_a_video_does_not_start_from_a_picture():
    wan = FAMILIES["wan"]
    with pytest.raises(rk.RekernelError, match="WanPipeline makes videos"):
        GuidedCascade(wan.pipe(), list(wan.sizes))(**wan.call(image=torch.zeros(1, 3, 64, 64)))


def test_what_is_no_pipeline(nets):
    with pytest.raises(rk.RekernelError, match=r"DDIMPipeline is a class; pass a pipeline, such as DDIMPipeline.from_"):
        GuidedCascade(diffusers.DDIMPipeline, scale=2)
    with pytest.raises(rk.RekernelError, match=r"neither a pipeline, nor a network, nor a function denoise\(x, t\)"):
        GuidedCascade(3, scale=2)
    with pytest.raises(rk.RekernelError, match="needs scheduler="):
        GuidedCascade(nets.unconditioned(), scale=2)


def test_img2img_pipelines_are_named(sd):
    again = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(sd)
    with pytest.raises(
        rk.RekernelError,
        match=r"StableDiffusionImg2ImgPipeline starts from a picture itself.*AutoPipelineForText2Image.from_pipe",
    ):
        GuidedCascade(again, [16, 32])


def test_the_picture_of_a_controlnet_is_not_the_start(controlled):
    parts = {**controlled.components, "requires_safety_checker": False}
    again = diffusers.StableDiffusionControlNetImg2ImgPipeline(**parts)
    with pytest.raises(rk.RekernelError, match=r"pass the picture as start= \(image= is that of the control\)"):
        GuidedCascade(again, [16, 32])


def test_pipelines_that_edit_a_picture_are_refused_when_made(inpainting):
    parts = {**inpainting(8).components, "requires_safety_checker": False}
    edits = diffusers.StableDiffusionInstructPix2PixPipeline(**parts)
    with pytest.raises(rk.RekernelError, match="InstructPix2PixPipeline edits or enlarges a picture that it is given"):
        GuidedCascade(edits, [16, 32])


def test_a_crop_around_the_mask_is_refused(inpainting):
    with pytest.raises(rk.RekernelError, match="padding_mask_crop=: crops the picture"):
        GuidedCascade(inpainting(9), [16, 32])("a cat", padding_mask_crop=4)


def test_positions_that_do_not_fit_are_refused_when_made():
    with pytest.raises(rk.RekernelError, match="method='yarn' needs rotary positions"):
        GuidedCascade(FAMILIES["sd3"].pipe(), [16, 32], positions={"method": "yarn"})


def test_the_first_size_of_a_network_without_a_trained_size():
    flux = FAMILIES["flux"].pipe()  # its default size is 128 cells of two pixels
    with pytest.raises(rk.RekernelError, match="512x512, is above the default size 256x256 of FluxPipeline"):
        GuidedCascade(flux, [512, 1024])
    assert GuidedCascade(flux, [128, 256, 512]).sizes[0] == (128, 128)


def test_a_pipeline_whose_network_guidance_does_not_know():
    with pytest.raises(rk.RekernelError, match="pass schedule="):
        GuidedCascade(FAMILIES["sd3"].pipe().transformer, [8, 16], scheduler=diffusers.SCMScheduler())


def test_sizes_by_scale():
    latents = Geometry((512, 512), 8, 8)
    assert stage_sizes(None, 4, latents, "x") == ((512, 512), (1024, 1024), (2048, 2048))
    assert stage_sizes(None, 3, latents, "x") == ((512, 512), (1024, 1024), (1536, 1536))
    assert stage_sizes(None, (1, 2), latents, "x") == ((512, 512), (512, 1024))
    assert stage_sizes([(768, 1344), (1536, 2688)], None, Geometry((1024, 1024), 8, 8), "SDXL")  # of the trained area
    flux = FAMILIES["flux"].pipe()
    assert GuidedCascade(flux, scale=2).sizes == ((256, 256), (512, 512))  # its default size, in cells of 2 here
    with pytest.raises(rk.RekernelError, match=r"WanPipeline: its config has no sample_size.*pass sizes="):
        GuidedCascade(FAMILIES["wan"].pipe(), scale=2)
    with pytest.raises(rk.RekernelError, match="takes multiples of 16; 112x112 or 128x128 do"):
        GuidedCascade(FAMILIES["wan"].pipe(), [64, 120])


@pytest.mark.parametrize(
    ("options", "fraction", "eta"),
    [({"eta": 0.6}, 0.5, 0.8), ({"eta": 1.0}, 0.5, 1.0), ({"eta": 0.0}, 0.5, 0.0), ({}, 0.5, 0.7), ({}, 1.0, 0.4)],
)
def test_the_share_of_guidance_in_a_stage(options, fraction, eta):
    settings = settings_of(0.5, 1, options).guidance
    made = guidance_at(UpsampleGuidance, settings, (2.0, 2.0), fraction, 0.4)
    assert made.eta == pytest.approx(eta) and made.scale == (2.0, 2.0)


def test_options_of_guidance_are_kept():
    given = UpsampleGuidance(8, theta=1.25, stop=100.0, reduce="cubic", enlarge="cubic", levels=1)
    settings = settings_of([0.5], 1, given, SupersampledKernels(3, method="dilate", until=0.5))
    made = guidance_at(UpsampleGuidance, settings.guidance, (2.0, 2.0), 0.5, 0.6)
    assert made.given() == {**given.given(), "scale": (2.0, 2.0)} and made.eta is None
    assert settings.kernels.given() == {"scale": 3.0, "method": "dilate", "until": 0.5}


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_are_decoded_as_the_pipeline_decodes_them(name):
    """The oracle is the pipeline: its pictures are its latents, decoded by its own rules."""
    family = FAMILIES[name]
    pipe, size = family.pipe(), family.sizes[0]
    options = family.call(height=size, width=size, num_inference_steps=2)
    options |= {"use_resolution_binning": False} if name in ("pixart", "sana") else {}
    latents, pictures = (
        pipe(**{**options, "output_type": kind, "generator": torch.Generator().manual_seed(0)})[0]
        for kind in ("latent", "pt")
    )
    cell = geometry_of(pipe, pipe.transformer, None).cell
    grid = SampleForm.of(pipe, cell, latents, (size, size)).grid(latents, (size, size))
    pixels = Autoencoder(pipe.vae).pixels(grid.movedim(2, 1) if name == "cogvideox" else grid)
    pixels = pixels.movedim(2, 1) if pixels.ndim == 5 else pixels
    assert torch.allclose((pixels / 2 + 0.5).clamp(0, 1), pictures, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_encoded_by_the_inverse_of_that_rule(name):
    vae = FAMILIES[name].pipe().vae
    coder = Autoencoder(vae)
    pixels = noise(2, 3, 32, 32).clamp(-1, 1)
    made = coder.latents(pixels)
    made, raw = made[:, :, 0] if made.ndim == 5 else made, vae.encode(pixels[:, :, None] if coder._video else pixels)
    raw = raw.latent if hasattr(raw, "latent") else raw.latent_dist.mode()
    back = coder.pixels(made)
    direct = vae.decode(raw, return_dict=False)[0]
    assert torch.allclose(back, direct.reshape(back.shape), atol=1e-5)


def test_half_precision_vae_that_overflows_runs_in_float32_and_is_put_back():
    vae = FAMILIES["sd3"].pipe().vae.half()
    vae.register_to_config(force_upcast=True)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    pixels = Autoencoder(vae).pixels(noise(1, 4, 8, 8).half())
    assert pixels.dtype == torch.float32 and torch.isfinite(pixels).all()
    assert vae.dtype == torch.float16 and all(torch.equal(before[n], v) for n, v in vae.state_dict().items())


def test_forms_of_samples():
    flux, grid, size = FAMILIES["flux"].pipe(), noise(2, 4, 6, 8), (12, 16)
    form = SampleForm.of(flux, 2)
    tokens = form.sample(grid)
    assert (
        torch.equal(tokens, diffusers.FluxPipeline._pack_latents(grid, 2, 4, 6, 8)) and form.latents(grid) is not grid
    )
    assert torch.equal(form.grid(tokens, size), grid) and SampleForm.of(flux, 2, tokens, size) == form
    stacked = stacked_blocks(grid)
    assert torch.equal(stacked, diffusers.Flux2Pipeline._patchify_latents(grid))
    assert torch.equal(unstacked_blocks(stacked), grid)
    plain = SampleForm.of(FAMILIES["sd3"].pipe(), 2)
    assert plain.sample(grid) is plain.latents(grid) is plain.grid(grid, size) is grid
    video, ltx = noise(2, 4, 3, 6, 8), SampleForm.of(FAMILIES["ltx"].pipe(), 32)
    assert torch.equal(ltx.sample(video), diffusers.LTXPipeline._pack_latents(video))
    assert torch.equal(ltx.grid(ltx.sample(video), (192, 256)), video)
    with pytest.raises(rk.RekernelError, match=r"at 16x16 pixels the image has the shape \(2, 12, 16\)"):
        form.grid(tokens, (16, 16))


def test_pictures(nets):
    tensor = noise(1, 3, 4, 6).sigmoid()
    array = (tensor[0].movedim(0, -1).numpy() * 255).round().astype("uint8")
    image = pytest.importorskip("PIL.Image").fromarray(array)
    for given in (image, array, [image], (tensor * 255).round().byte()):
        assert (as_picture(given) - tensor).abs().max() < 0.003
    assert as_picture(image.convert("L")).shape == (1, 1, 4, 6)
    with pytest.raises(rk.RekernelError, match="differ in size"):
        as_picture([image, image.resize((2, 2))])


def test_resizing_keeps_constants_and_is_the_same_for_every_frame():
    video = noise(1, 2, 3, 8, 8)
    made = resized(video, (16, 12))
    assert made.shape == (1, 2, 3, 16, 12) and torch.allclose(made[:, :, 1], resized(video[:, :, 1], (16, 12)))
    assert torch.allclose(resized(torch.full((1, 1, 8, 8), 0.3), (16, 12)), torch.full((1, 1, 16, 12), 0.3))
    small = resized(video[:, :, 0].half(), (4, 4))
    assert small.dtype == torch.float16 and small.shape == (1, 2, 4, 4)


@pytest.mark.parametrize("multiple", [8, 32, 64])
def test_a_cascade_starts_at_a_trained_shape_for_every_size_that_is_larger(multiple):
    geometry = Geometry((512, 512), 8, multiple)
    for size in itertools.product(range(256, 2049, multiple * 2), range(256, 2561, multiple * 2)):
        if max(enlargement(size, (512, 512))) == 1:
            continue
        stages = sizes_up_to(size, geometry)
        assert stage_sizes(stages, None, geometry, "pipe") == stages and stages[-1] == size
    with pytest.raises(rk.RekernelError, match=r"4096x128 \(width x height\): no shape of the trained area, 512x512"):
        sizes_up_to((128, 4096), geometry)
    assert sizes_up_to((8, 16), Geometry((8, 8), 1, 8)) == ((8, 8), (8, 16))
