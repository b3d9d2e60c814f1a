"""Whole pipelines through a cascade: sizes, seeds, callbacks, and nothing left behind, also by an error."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")
pil = pytest.importorskip("PIL.Image")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade, RescaledPositions, SupersampledKernels, UpsampleGuidance  # noqa: E402

from ..conftest import SD, quiet  # noqa: E402
from .conftest import state  # noqa: E402
from .families import FAMILIES  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


@pytest.mark.parametrize("enlarge", ["latent", "pixels"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_from_noise_to_the_last_size(name, enlarge):
    family = FAMILIES[name]
    pipe = family.pipe()
    before = state(pipe)
    cascade = GuidedCascade(pipe, list(family.sizes), strength=0.5, enlarge=enlarge)
    found = cascade(**family.call(generator=seeded()))[0]
    assert tuple(found.shape) == (1, *family.shape) and torch.isfinite(found).all()
    again = cascade(**family.call(generator=seeded()))[0]
    other = cascade(**family.call(generator=seeded(1)))[0]
    assert torch.equal(found, again) and (found - other).abs().max() > 1e-4
    assert state(pipe) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_an_error_and_an_interrupt_in_any_stage_leave_nothing(name):
    family = FAMILIES[name]
    pipe = family.pipe()
    before = state(pipe)
    cascade = GuidedCascade(pipe, list(family.sizes), strength=0.5)
    calls = [0]
    for stop_at, error in ((2, KeyError), (5, KeyboardInterrupt), (6, KeyError)):
        calls[0] = 0

        def stop(_module, _args, stop_at=stop_at, error=error):
            calls[0] += 1
            if calls[0] == stop_at:
                raise error("in the middle")

        layers = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
        first = next(module for module in network(pipe).modules() if isinstance(module, layers))
        handle = first.register_forward_pre_hook(stop)
        with pytest.raises(error, match="in the middle"):
            cascade(**family.call(generator=seeded()))
        handle.remove()
        assert state(pipe) == before


def test_three_stages_with_nested_guidance_and_kernels(nets, sd):
    cascade = GuidedCascade(sd, scale=4, strength=[0.5, 0.25], guidance={"eta": 1.0}, kernels=SupersampledKernels())
    assert cascade.sizes == ((16, 16), (32, 32), (64, 64))
    said = repr(cascade)
    assert said.startswith(
        "GuidedCascade(StableDiffusionPipeline, 16x16 -> 32x32 at 0.5 -> 64x64 at 0.25, guided (eta=1), "
    )
    before = state(sd)
    with nets.passes(sd.unet) as sizes:
        picture = cascade("a cat", num_inference_steps=8, generator=seeded(), output_type="np").images
    assert picture.shape == (1, 64, 64, 3) and state(sd) == before
    planned = 3  # of the kernels: for each stage, and for the level between
    assert [sizes.count((n, n)) for n in (8, 16, 32)] == [8 + 4 + 2 + planned, 4 + 2, 2]
    assert cascade.passes == pytest.approx(len(sizes) - sizes.count((16, 16)) * 3 / 4 - sizes.count((8, 8)) * 15 / 16)


def test_guidance_acts_and_its_share_counts_in_the_stage(nets, sd):
    """eta = .6 of a stage of strength .5: in the first 60 % of its five steps, not in a fifth of them."""
    made = {}
    for name, guidance in {"none": False, "usual": None, "all": UpsampleGuidance(eta=1.0), "off": {"eta": 0.0}}.items():
        cascade = GuidedCascade(sd, [16, 32], strength=0.5, guidance=guidance)
        with nets.passes(sd.unet) as sizes:
            made[name] = cascade("a cat", num_inference_steps=10, generator=seeded(), output_type="np").images
        made[name + " low"] = sizes.count((8, 8)) - 10
    assert [made[name + " low"] for name in ("none", "usual", "all", "off")] == [0, 3, 5, 0]
    assert np.array_equal(made["none"], made["off"])
    assert np.abs(made["usual"] - made["none"]).max() > 1e-3 < np.abs(made["all"] - made["usual"]).max()


def test_a_prompt_is_encoded_once(sd):
    seen = []
    handle = sd.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    GuidedCascade(sd, [16, 32, 48])("a cat", negative_prompt="dog", num_inference_steps=4)
    handle.remove()
    assert len(seen) == 2 and "encode_prompt" not in vars(sd)


def test_callbacks_count_through_the_stages(sd):
    steps, shapes, times = [], [], []

    def look(pipe, step, time, tensors):
        assert pipe is sd
        steps.append(step)
        times.append(float(time))
        shapes.append(tuple(tensors["latents"].shape[2:]))
        return {}

    GuidedCascade(sd, [16, 32, 48], strength=[0.5, 0.34])(
        "a cat", num_inference_steps=6, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["latents"]
    )
    assert steps == list(range(6 + 3 + 2)) and shapes == [(8, 8)] * 6 + [(16, 16)] * 3 + [(24, 24)] * 2
    assert times[6:9] == times[3:6] and times[9:] == times[4:6]


def test_a_callback_of_diffusers_and_a_progress_bar_know_the_stage(sd, capfd):
    from diffusers.callbacks import SDCFGCutoffCallback

    sd.set_progress_bar_config(ascii=True)
    GuidedCascade(sd, [16, 32])("a cat", num_inference_steps=4, callback_on_step_end=SDCFGCutoffCallback(0.5))
    said = capfd.readouterr().err
    assert "stage 1 of 2, 16x16: 100%" in said and "4/4" in said
    assert "stage 2 of 2, 32x32: 100%" in said and "2/2" in said
    assert "progress_bar" not in vars(sd) and vars(sd)["_progress_bar_config"] == {"ascii": True}


def test_an_interrupted_stage_is_the_result_at_its_own_size(sd):
    def stop(pipe, step, _time, _tensors):
        pipe._interrupt = step == 2
        return {}

    before = state(sd)
    found = GuidedCascade(sd, [16, 32])("a cat", num_inference_steps=6, callback_on_step_end=stop, output_type="np")
    assert found.images.shape == (1, 16, 16, 3) and state(sd) == before


def test_output_types_and_several_pictures(sd):
    cascade = GuidedCascade(sd, [16, 32])
    options = {"num_inference_steps": 4, "num_images_per_prompt": 2}
    drawn = [seeded(i) for i in range(4)]
    found = cascade(["a cat", "a dog"], generator=drawn, **options).images
    assert [picture.size for picture in found] == [(32, 32)] * 4
    latents = cascade(["a cat", "a dog"], output_type="latent", return_dict=False, **options)
    assert isinstance(latents, tuple) and latents[0].shape == (4, 4, 16, 16)
    one = cascade("a dog", generator=[seeded(3)], num_inference_steps=4, output_type="np").images[0]
    assert np.abs(one - np.asarray(found[3]) / 255).max() < 0.01  # each picture has its own generator


def test_oblong_sizes(sd):
    cascade = GuidedCascade(sd, ["32x8", (16, 64)])
    assert cascade("a cat", num_inference_steps=4).images[0].size == (64, 16)


@pytest.mark.parametrize(
    ("kind", "scheduler"), [("DDIMPipeline", "DDIMScheduler"), ("DDPMPipeline", "DDPMScheduler")]
)  # fmt: skip
def test_pipelines_of_pixels_that_take_no_latents(nets, kind, scheduler):
    """They draw their own noise and know one size: both are exchanged while they run."""
    net, made = nets.unconditioned(), getattr(diffusers, scheduler)(clip_sample=False)
    pipe = quiet(getattr(diffusers, kind)(net, made))
    before = state(pipe)
    cascade = GuidedCascade(pipe, scale=2, strength=0.5, guidance=False)
    options = {"batch_size": 2, "num_inference_steps": 6}
    found = cascade(generator=seeded(), output_type="np", **options).images
    assert found.shape == (2, 16, 16, 3) and state(pipe) == before
    generator = seeded()
    x = torch.randn(2, 3, 8, 8, generator=generator)
    made.set_timesteps(6)
    for size, first in ((8, 0), (16, 3)):
        if size == 16:
            x = torch.nn.functional.interpolate(x, size=(16, 16), mode="bicubic", antialias=True)
            x = made.add_noise(x, torch.randn(x.shape, generator=generator), made.timesteps[first : first + 1])
            if kind == "DDIMPipeline":
                torch.randn(x.shape, generator=generator)  # the noise that the pipeline drew in vain
            else:
                torch.randn(x.shape, generator=generator)
        for t in made.timesteps[first:]:
            with torch.no_grad():
                x = made.step(net(x, t).sample, t, x, generator=generator).prev_sample
    assert np.abs(found - (x / 2 + 0.5).clamp(0, 1).movedim(1, -1).numpy()).max() < 1e-4


def test_a_class_conditional_transformer_in_latents(nets):
    """DiT doubles its batch before its loop, has one size, and no output in latent space."""
    transformer = nets.made(
        diffusers.DiTTransformer2DModel, num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8,
        num_layers=1, sample_size=8, num_embeds_ada_norm=1000, patch_size=2, norm_elementwise_affine=False,
    )  # fmt: skip
    pipe = quiet(diffusers.DiTPipeline(transformer, FAMILIES["sd3"].pipe().vae, diffusers.DDIMScheduler()))
    before = state(pipe)
    cascade = GuidedCascade(pipe, [16, 32])
    found = cascade([1, 2], num_inference_steps=4, generator=seeded(), output_type="np").images
    assert found.shape == (2, 32, 32, 3) and cascade.passes > 3 and state(pipe) == before


def test_the_control_image_has_the_size_of_each_stage(controlled):
    seen = []
    controlled.controlnet.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args[0].shape[-1], kwargs["controlnet_cond"].shape[-1])), with_kwargs=True
    )
    cascade = GuidedCascade(controlled, [16, 32])
    for control in (pil.new("RGB", (32, 32), (9, 99, 200)), torch.rand(1, 3, 16, 16, generator=seeded())):
        seen.clear()
        found = cascade("a cat", image=control, num_inference_steps=4, generator=seeded(), output_type="np").images
        assert found.shape == (1, 32, 32, 3) and seen == [(8, 16)] * 4 + [(16, 32)] * 2
    start = torch.rand(1, 3, 16, 16, generator=seeded())
    cascade("a cat", image=control, start=start, num_inference_steps=4, generator=seeded())
    assert seen[6:] == [(16, 32)] * 2


@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_keeps_what_is_known_at_the_full_size(inpainting, channels):
    pipe = inpainting(channels)
    picture = torch.rand(1, 3, 32, 32, generator=seeded(4))
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    latents, shapes = [], []

    def look(_pipe, step, _time, tensors):
        latents.append(tensors["latents"].clone())
        shapes.append(tuple(tensors["mask"].shape[2:]))
        return {}

    before = state(pipe)
    found = GuidedCascade(pipe, [16, 32])(
        "a cat", image=picture, mask_image=mask, num_inference_steps=8, generator=seeded(), output_type="latent",
        callback_on_step_end=look, callback_on_step_end_tensor_inputs=["latents", "mask"],
    ).images  # fmt: skip
    assert found.shape == (1, 4, 16, 16) and state(pipe) == before
    assert shapes == [(16, 16)] * 16 or shapes[8:] == [(16, 16)] * 8 or len(set(shapes[-4:])) == 1
    if channels == 4:  # the known part is the given picture, with the noise of the start at each time
        known = latents[-1][..., :7]
        pipe.scheduler.set_timesteps(8)
        noises = []
        for step, made in zip((4, 5, 6), latents[8:11], strict=True):
            alpha = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps[step + 1]]
            noises.append((made[..., :7] - alpha**0.5 * known) / (1 - alpha) ** 0.5)
        assert torch.allclose(noises[0], noises[2], atol=1e-3) and noises[0].std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("name", "kind"), [("flux", "FluxInpaintPipeline"), ("qwen", "QwenImageInpaintPipeline")])
def test_inpainting_by_a_transformer(name, kind):
    """Its pipelines mix given latents with the picture, so the network's first call and step get the start instead."""
    family = FAMILIES[name]
    pipe = quiet(getattr(diffusers, kind)(**family.pipe().components))
    picture, mask = torch.rand(1, 3, 32, 32, generator=seeded(4)), torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    seen, latents, before = [], [], state(pipe)
    handle = pipe.transformer.register_forward_hook(
        lambda _m, _a, kwargs, _o: seen.append((kwargs["hidden_states"], float(kwargs["timestep"][0]))),
        with_kwargs=True,
    )

    def look(_pipe, _step, _time, tensors):
        latents.append(tensors["latents"])
        return {}

    found = GuidedCascade(pipe, list(family.sizes), guidance=False, enlarge="latent")(
        **family.call(image=picture, mask_image=mask, strength=1.0, num_inference_steps=6, generator=seeded()),
        callback_on_step_end=look,
    )[0]
    handle.remove()
    assert found.shape == (1, 3, 32, 32) and state(pipe) == before
    assert [tokens.shape[1] for tokens, _ in seen] == [16] * 6 + [64] * 3
    first, sigma = seen[6]
    small = diffusers.FluxPipeline._unpack_latents(latents[5], 8, 8, 1)
    large = torch.nn.functional.interpolate(small, size=(16, 16), mode="bicubic", antialias=True)
    noise = (first - (1 - sigma) * diffusers.FluxPipeline._pack_latents(large, *large.shape)) / sigma
    assert noise.mean().abs() < 0.1 and noise.std() == pytest.approx(1, abs=0.08)


def test_a_given_picture_takes_the_place_of_the_first_stage(nets, sd):
    picture = pil.fromarray(np.full((16, 16, 3), (200, 30, 90), np.uint8))
    cascade = GuidedCascade(sd, [16, 32], strength=0.25)
    with nets.passes(sd.unet) as sizes:
        found = cascade("a cat", image=picture, num_inference_steps=4, generator=seeded(), output_type="np").images
    assert found.shape == (1, 32, 32, 3) and sizes == [(16, 16), (8, 8)]
    array = np.asarray(picture) / 255
    for same in (array, torch.from_numpy(array).movedim(-1, 0), [picture]):
        again = cascade("a cat", image=same, num_inference_steps=4, generator=seeded(), output_type="np").images
        assert np.abs(again - found).max() < 1e-5
    two = cascade(["a cat", "a dog"], image=picture, num_inference_steps=4, output_type="np").images
    assert two.shape == (2, 32, 32, 3)
    flux = FAMILIES["flux"]
    cascade = GuidedCascade(flux.pipe(), list(flux.sizes))
    assert cascade(**flux.call(image=picture))[0].shape == (1, 3, 32, 32)


def test_an_enlarger_of_the_user_s(sd):
    given = []

    def four_times(pixels):
        given.append((tuple(pixels.shape), float(pixels.min()), float(pixels.max())))
        return torch.nn.functional.interpolate(pixels, scale_factor=4)

    cascade = GuidedCascade(sd, [16, 32], enlarge=four_times)
    found = cascade("a cat", num_inference_steps=4, generator=seeded(), output_type="np").images
    assert found.shape == (1, 32, 32, 3)
    ((shape, least, most),) = given
    assert shape == (1, 3, 16, 16) and least >= 0 and most <= 1
    wan = FAMILIES["wan"]
    given.clear()
    GuidedCascade(wan.pipe(), list(wan.sizes), enlarge=four_times)(**wan.call())
    assert given[0][0] == (9, 3, 64, 64)  # each frame
    with pytest.raises(rk.RekernelError, match=r"the callable got pixels of shape \(1, 3, 16, 16\).*returned str"):
        GuidedCascade(sd, [16, 32], enlarge=lambda _: "large")("a cat", num_inference_steps=4)


def test_a_pipeline_of_one_s_own_is_the_loop_written_by_hand():
    """The glyph model: class labels, no prompt, no output in latent space."""
    folder = Path(__file__).parents[3] / "examples" / "glyph_diffusion"
    pipe = quiet(
        diffusers.DiffusionPipeline.from_pretrained(
            folder, custom_pipeline=str(folder / "pipeline.py"), trust_remote_code=True
        )
    )
    before, labels = state(pipe), [3, 7]
    cascade = GuidedCascade(pipe, scale=2, strength=0.4)
    found = cascade(labels, num_inference_steps=10, guidance_scale=1.0, generator=seeded(), output_type="pt").images
    assert state(pipe) == before and cascade.passes == pytest.approx(10 / 4 + 4 * 5 / 4)
    generator, scheduler = seeded(), pipe.scheduler
    x = pipe(labels, None, None, 10, 1.0, generator, "pt").images * 2 - 1
    x = torch.nn.functional.interpolate(x, size=(32, 32), mode="bicubic", antialias=True)
    scheduler.set_timesteps(10)
    x = scheduler.add_noise(x, torch.randn(x.shape, generator=generator), scheduler.timesteps[6:7])
    with UpsampleGuidance(2, theta=1.5, eta=1.0, enlarge="cubic").attach(pipe), torch.no_grad():
        for t in scheduler.timesteps[6:]:
            predicted = pipe.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = scheduler.step(predicted, t, x, use_clipped_model_output=True).prev_sample
    assert (found - (x / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-4


def test_both_networks_of_wan_2_2_are_guided_and_counted():
    wan = FAMILIES["wan"]
    first, second = wan.pipe(), wan.pipe()
    pipe = quiet(
        diffusers.WanPipeline(
            tokenizer=None, text_encoder=None, vae=first.vae, scheduler=first.scheduler, transformer=first.transformer,
            transformer_2=second.transformer, boundary_ratio=0.8,
        )
    )  # fmt: skip
    before = [{name: id(value) for name, value in vars(net).items()} for net in (pipe.transformer, pipe.transformer_2)]
    calls = {"first": [], "second": []}
    for name, net in (("first", pipe.transformer), ("second", pipe.transformer_2)):
        net.patch_embedding.register_forward_hook(lambda _m, args, _o, name=name: calls[name].append(args[0].shape[-1]))
    cascade = GuidedCascade(pipe, list(wan.sizes), strength=0.75, guidance={"eta": 1.0})
    assert cascade(**wan.call(guidance_scale=1.0, num_inference_steps=4))[0].shape == (1, *wan.shape)
    assert calls["first"][:2] == [8, 8] and calls["second"][-2:] == [16, 8] and 16 in calls["first"]
    assert cascade.passes == pytest.approx(sum((n / 16) ** 2 for n in calls["first"] + calls["second"]))
    after = [{name: id(value) for name, value in vars(net).items()} for net in (pipe.transformer, pipe.transformer_2)]
    assert after == before


@pytest.mark.parametrize("name", ["flux", "qwen", "z-image", "sd3"])
def test_positions_are_rescaled_in_the_later_stages(name):
    family = FAMILIES[name]
    pipe = family.pipe()
    before = state(pipe)
    plain = GuidedCascade(pipe, list(family.sizes))(**family.call(generator=seeded()))[0]
    cascade = GuidedCascade(pipe, list(family.sizes), positions={"method": "interpolate"})
    assert repr(cascade).endswith("guided, positions rescaled)")
    found = cascade(**family.call(generator=seeded()))[0]
    assert (found - plain).abs().max() > 1e-4 and state(pipe) == before
    again = GuidedCascade(pipe, list(family.sizes), positions=RescaledPositions("auto", "interpolate"))
    assert torch.equal(again(**family.call(generator=seeded()))[0], found)


def test_a_function_with_a_scheduler(nets):
    def denoise(x, t, strength=1.0):
        return strength * x * (t / 1000)

    cascade = GuidedCascade(denoise, [8, 16], scheduler=diffusers.EulerDiscreteScheduler(**SD))
    (found,) = cascade(2, 6, seeded(), channels=1, strength=0.9)
    assert found.shape == (2, 1, 16, 16) and cascade.passes == pytest.approx(6 / 4 + 3 + 3 / 4)
    with pytest.raises(rk.RekernelError, match="needs scheduler="):
        GuidedCascade(denoise, [8, 16])


@pytest.mark.parametrize("guidance", [None, False])
def test_parts_of_the_user_s_are_not_taken_into_a_cascade(nets, sd, guidance):
    with pytest.raises(rk.RekernelError, match=r"attached already; remove\(\) it first"):
        GuidedCascade(sd, [16, 32], guidance=UpsampleGuidance(eta=1.0).attach(sd))
    flux = FAMILIES["flux"]
    transformer = flux.pipe()
    RescaledPositions(2, "yarn").attach(transformer)
    with nets.passes(sd.unet) as sizes:
        for pipe, call in ((sd, {"prompt": "a cat", "num_inference_steps": 4}), (transformer, flux.call())):
            with pytest.raises(
                rk.RekernelError, match=r"attached already; take it off first: .* rekernel.diffusion.detach\(pipe\)"
            ):
                GuidedCascade(pipe, [16, 32], guidance=guidance)(**call)
    assert not sizes  # said before the first stage
