"""Whole Stable Diffusion pipelines, from a prompt to pictures: small configs, random weights, everything attached."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
np = pytest.importorskip("numpy")
safetensors_torch = pytest.importorskip("safetensors.torch")
accelerate = pytest.importorskip("accelerate")
pytest.importorskip("peft")
from click.testing import CliRunner  # noqa: E402

import rekernel as rk  # noqa: E402
from rekernel.diffusion import SupersampledKernels, UpsampleGuidance, load_pipeline, record  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

from .conftest import quiet  # noqa: E402


def picture(pipe, size=32, steps=3, **more):
    """Of `size` pixels, in float; 16 is the trained size (8 latents)."""
    options = {"num_inference_steps": steps, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
    options |= {"prompt": "a cat", "negative_prompt": "dog", "height": size, "width": size}
    return pipe(**{**options, **more}).images[0]


def same(a, b, tolerance=1e-4):
    return np.abs(a - b).max() < tolerance


def different(a, b):
    return np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("which", ["sd", "sdxl"])
def test_from_a_prompt_to_a_picture(nets, request, which):
    pipe = request.getfixturevalue(which)
    plain = picture(pipe)
    before = {name: id(value) for name, value in vars(pipe.unet).items()}
    with (
        UpsampleGuidance(eta=1.0).attach(pipe) as guidance,
        SupersampledKernels().attach(pipe) as kernels,
        nets.passes(pipe.unet) as sizes,
    ):
        assert type(pipe).__name__ in repr(guidance) and "UNet2DConditionModel" in repr(kernels)
        both = picture(pipe)
        kernels.remove()
        alone = picture(pipe)
    assert sizes.count((16, 16)) == 6 and sizes.count((8, 8)) == 7  # one of them to plan the kernels
    assert both.shape == (32, 32, 3) and different(both, plain) and different(alone, plain) and different(both, alone)
    assert {name: id(value) for name, value in vars(pipe.unet).items()} == before
    assert np.array_equal(picture(pipe), plain)


def test_latent_models_stop_at_eta_0_6(nets, sd):
    with UpsampleGuidance(2).attach(sd), nets.passes(sd.unet) as sizes:
        picture(sd, steps=10)
    assert sizes.count((16, 16)) == 10 and sizes.count((8, 8)) == 6
    with UpsampleGuidance(2).attach(sd), nets.passes(sd.unet) as sizes:
        picture(sd, size=16)
    assert sizes == [(8, 8)] * 3  # the trained size
    with UpsampleGuidance().attach(sd), nets.passes(sd.unet) as sizes:
        picture(sd, size=16)
    assert sizes == [(8, 8)] * 3


def test_sdxl_is_told_the_trained_size(nets, sdxl):
    with nets.inputs(sdxl.unet) as seen, UpsampleGuidance().attach(sdxl):
        picture(sdxl, steps=2)
    told = [kwargs["added_cond_kwargs"]["time_ids"][0].tolist() for _, kwargs in seen]
    assert told[:2] == [[32.0, 32, 0, 0, 32, 32], [16.0, 16, 0, 0, 16, 16]]


def test_an_exception_in_the_middle_of_sampling(sd):
    before = {name: id(value) for name, value in vars(sd.unet).items()}

    def stop(pipe, step, t, kwargs):
        raise KeyError("stopped")

    with (
        pytest.raises(KeyError, match="stopped"),
        UpsampleGuidance().attach(sd),
        SupersampledKernels().attach(sd),
    ):
        picture(sd, callback_on_step_end=stop)
    assert {name: id(value) for name, value in vars(sd.unet).items()} == before
    assert not [name for name, module in sd.unet.named_modules() if "forward" in vars(module)]


# -- LoRA ---------------------------------------------------------------------------------------------------------


def lora(unet, rank=2):
    """A random adapter: attention, convolutions of the inner blocks, and the very first one; and what it adds."""
    generator = torch.Generator().manual_seed(9)
    targets = ["mid_block.resnets.0.conv1", "down_blocks.1.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv"]
    targets += ["conv_in", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    state, added = {}, {}
    for name in targets:
        weight = unet.get_submodule(name).weight
        a = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.3
        b = torch.randn(weight.shape[0], rank, *(1 for _ in weight.shape[2:]), generator=generator) * 0.3
        state[f"unet.{name}.lora_A.weight"], state[f"unet.{name}.lora_B.weight"] = a, b
        added[name] = (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    return state, added


@pytest.fixture
def adapter(sd, tmp_path):
    state, added = lora(sd.unet)
    safetensors_torch.save_file(state, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors", added


def merged(pipe, added):
    """The picture with the adapter added to the weights by hand."""
    for name, delta in added.items():
        pipe.unet.get_submodule(name).weight.data += delta
    try:
        return picture(pipe)
    finally:
        for name, delta in added.items():
            pipe.unet.get_submodule(name).weight.data -= delta


@pytest.mark.parametrize(
    "options", [{}, {"layers": "all"}, {"layers": ["*.conv1.weight", "conv_in.weight"]}, {"form": "dense"}], ids=str
)
def test_lora_loaded_and_unloaded_while_kernels_are_attached(sd, adapter, options):
    path, added = adapter
    with SupersampledKernels(2, **options).attach(sd):
        without, wanted = picture(sd), None
    with SupersampledKernels(2, **options).attach(sd):
        wanted = merged(sd, added)
    assert different(without, wanted)
    with SupersampledKernels(2, **options).attach(sd) as kernels:
        assert same(picture(sd), without)
        sd.load_lora_weights(path)
        assert same(picture(sd), wanted)
        sd.fuse_lora()
        assert same(picture(sd), wanted)
        sd.unfuse_lora()
        sd.unload_lora_weights()
        assert same(picture(sd), without)
        kernels.remove()
    with SupersampledKernels(2, **options).attach(sd):  # and attached to a network that has it
        sd.load_lora_weights(path)
        assert same(picture(sd), wanted)


def test_a_second_adapter_beside_the_first(sd, adapter):
    path, added = adapter
    with SupersampledKernels(2).attach(sd):
        sd.load_lora_weights(path, adapter_name="one")
        one = picture(sd)
        sd.load_lora_weights(path, adapter_name="two")
        sd.set_adapters(["one", "two"], [1.0, 1.0])
        two = picture(sd)
        sd.unload_lora_weights()
        doubled = merged(sd, {name: 2 * delta for name, delta in added.items()})
    assert same(two, doubled, 1e-3) and different(one, two)


def test_lora_with_guidance(nets, sd, adapter):
    path, added = adapter
    with UpsampleGuidance(eta=1.0).attach(sd), SupersampledKernels().attach(sd):
        sd.load_lora_weights(path)
        with nets.passes(sd.unet) as sizes:
            found = picture(sd)
        assert sizes.count((16, 16)) == 3
        sd.unload_lora_weights()
        assert same(found, merged(sd, added))


# -- offloading and compiling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["offloading", "guidance"])
def test_model_offloading(nets, sd, first):
    """A pipeline takes accelerate's hooks off and on again after each call: the next call must be guided too."""
    plain = picture(sd)
    with UpsampleGuidance(eta=1.0).attach(sd), SupersampledKernels().attach(sd):
        wanted = picture(sd)
    guidance, kernels = UpsampleGuidance(eta=1.0), SupersampledKernels()
    if first == "offloading":
        sd.enable_model_cpu_offload(device="cpu")
    guidance.attach(sd)
    kernels.attach(sd)
    if first == "guidance":
        sd.enable_model_cpu_offload(device="cpu")
    assert hasattr(sd.unet, "_hf_hook")
    for _ in range(3):
        with nets.passes(sd.unet) as sizes:
            assert same(picture(sd), wanted)
        assert sizes.count((16, 16)) == 3 and sizes.count((8, 8)) >= 3
    guidance.remove()
    kernels.remove()
    assert hasattr(sd.unet, "_hf_hook") and "rekernel" not in repr(vars(sd.unet).get("_diffusers_hook"))
    assert same(picture(sd), plain) and same(picture(sd), plain)


def test_offloading_layer_by_layer(nets, sd):
    """Guidance calls the whole network and works; kernels need the layers and say so."""
    with UpsampleGuidance(eta=1.0).attach(sd):
        wanted = picture(sd)
    accelerate.cpu_offload(sd.unet, execution_device="cpu")  # as enable_sequential_cpu_offload does
    assert next(sd.unet.parameters()).device.type == "meta"
    with UpsampleGuidance(eta=1.0).attach(sd):
        assert same(picture(sd), wanted) and same(picture(sd), wanted)
        with pytest.raises(rk.RekernelError, match=r"down_blocks.*enable_model_cpu_offload instead"):
            SupersampledKernels().attach(sd)
        assert same(picture(sd), wanted)


@pytest.mark.slow
def test_compiled_denoiser(sd):
    torch._dynamo.reset()
    with UpsampleGuidance(eta=1.0).attach(sd), SupersampledKernels(until=0.5).attach(sd):
        wanted = picture(sd)
    sd.unet = torch.compile(sd.unet, backend="eager")
    plain = picture(sd)
    with UpsampleGuidance(eta=1.0).attach(sd), SupersampledKernels(until=0.5).attach(sd):
        assert same(picture(sd), wanted)
        assert "UNet2DConditionModel of StableDiffusionPipeline" in repr(sd.unet._diffusers_hook)
    assert same(picture(sd), plain) and different(plain, wanted)
    torch._dynamo.reset()


def test_two_denoisers_are_refused(nets, sd):
    sd.transformer_2 = nets.unet
    with pytest.raises(rk.RekernelError, match="two denoisers, the second one as transformer_2; attach to each"):
        UpsampleGuidance().attach(sd)


def test_what_is_no_pipeline(nets):
    class Nothing:
        unet = transformer = None

    with pytest.raises(rk.RekernelError, match="Nothing is neither a diffusers pipeline with a unet or transformer"):
        SupersampledKernels().attach(Nothing())


def test_the_sample_command_leaves_the_scale_of_guidance_to_the_pipeline(sd, tmp_path):
    sd.save_pretrained(tmp_path / "sd")
    made = []
    for i, more in enumerate(((), ("--cfg", "7.5"), ("--cfg", "1"))):
        arguments = ("--prompt", "a", "--count", "1", "--steps", "2", "--out", str(tmp_path / f"{i}.png"), *more)
        done = CliRunner().invoke(main, ["sample", str(tmp_path / "sd"), *arguments])
        assert done.exit_code == 0, done.output
        made.append((tmp_path / f"{i}.png").read_bytes())
    assert made[0] == made[1] != made[2]  # StableDiffusionPipeline's own is 7.5


# -- folders ----------------------------------------------------------------------------------------------------------


def at_scale(folder, out, kind, scale):
    if kind == "converted":
        rk.convert(folder, out, scale=scale)
    else:
        record(folder, out, scale, guidance={"eta": 1.0}, kernels={})
    return out


def drawn(pipe, **more):
    """A picture of the pipeline's default size."""
    return picture(quiet(pipe), height=None, width=None, steps=2, **more)


@pytest.mark.parametrize("kind", ["recorded", "converted"])
@pytest.mark.parametrize(("which", "scale"), [("sd", 2.0), ("sd", (2.0, 1.5)), ("sdxl", 2.0)])
def test_a_loaded_folder_draws_its_new_size_and_so_does_its_copy(request, tmp_path, which, scale, kind):
    """Pipelines keep what they read of the denoiser's size when they are made: it has to be the new one by then."""
    request.getfixturevalue(which).save_pretrained(tmp_path / "in")
    loaded = load_pipeline(at_scale(tmp_path / "in", tmp_path / "out", kind, scale))
    found = drawn(loaded)
    assert found.shape == ((32, 32, 3) if scale == 2.0 else (32, 24, 3))
    loaded.save_pretrained(tmp_path / "again")
    assert np.array_equal(drawn(load_pipeline(tmp_path / "again")), found)


@pytest.mark.parametrize("kind", ["recorded", "converted"])
def test_a_pipeline_of_squares_keeps_its_default_and_says_so(sdxl, tmp_path, kind):
    sdxl.save_pretrained(tmp_path / "in")
    out = at_scale(tmp_path / "in", tmp_path / "out", kind, (2.0, 1.5))
    with pytest.warns(UserWarning, match=r"one number for both sides.*\(16, 12\); pass height= and width="):
        loaded = load_pipeline(out)
    assert loaded.default_sample_size == 8
    assert picture(quiet(loaded), steps=2, height=32, width=24).shape == (32, 24, 3)


def test_a_video_at_twice_its_frames_and_sides(sd, tmp_path):
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )  # fmt: skip
    made = diffusers.AnimateDiffPipeline(sd.vae, sd.text_encoder, sd.tokenizer, sd.unet, adapter, sd.scheduler)
    made.save_pretrained(tmp_path / "in")
    record(tmp_path / "in", tmp_path / "out", (2, 2, 2), guidance={})
    pipe = quiet(load_pipeline(tmp_path / "out"))
    assert "scale=2x2x2" in repr(pipe.rekernel.guidance)
    frames = pipe("a cat", num_frames=4, num_inference_steps=2, output_type="np").frames
    assert np.asarray(frames).shape == (1, 4, 32, 32, 3)


def test_a_folder_of_one_variant_alone(sd, tmp_path):
    sd.to(torch.float16).save_pretrained(tmp_path / "in", variant="fp16")
    for kind in ("recorded", "converted"):
        out = at_scale(tmp_path / "in", tmp_path / kind, kind, 2.0)
        pipe = load_pipeline(out)
        assert (pipe.unet.dtype, pipe.text_encoder.dtype) == (torch.float32, torch.float32)
        assert drawn(pipe).shape == (32, 32, 3)
        assert load_pipeline(out, dtype=torch.bfloat16).text_encoder.dtype == torch.bfloat16


def test_plain_weights_and_a_variant_beside_them(sd, tmp_path):
    sd.save_pretrained(tmp_path / "in")
    sd.unet.mid_block.resnets[0].conv1.weight.data += 1
    sd.save_pretrained(tmp_path / "in", variant="fp16")
    out = at_scale(tmp_path / "in", tmp_path / "out", "recorded", 2.0)
    plain, other = load_pipeline(out), load_pipeline(out, variant="fp16")
    added = [p.unet.mid_block.resnets[0].conv1.weight for p in (other, plain)]
    assert torch.allclose(added[0] - 1, added[1], atol=1e-5)


def test_precision_by_component(sd, tmp_path):
    sd.save_pretrained(tmp_path / "in")
    out = at_scale(tmp_path / "in", tmp_path / "out", "converted", 2.0)
    pipe = load_pipeline(out, dtype={"unet": torch.bfloat16, "default": torch.float16})
    assert (pipe.unet.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float16)
    assert load_pipeline(out, dtype={"default": torch.float16}).unet.dtype == torch.float16
    assert load_pipeline(out, dtype={"vae": torch.float16}).unet.dtype == torch.float32


def test_options_of_the_pipeline_itself_are_kept(sd, sdxl, tmp_path, monkeypatch):
    """They are not components, and some are not in its config: `add_watermarker` is told to the constructor alone."""
    for pipe, name in ((sd, "sd"), (sdxl, "sdxl")):
        pipe.save_pretrained(tmp_path / name)
        at_scale(tmp_path / name, tmp_path / f"{name}-2x", "recorded", 2.0)
    assert load_pipeline(tmp_path / "sd-2x").config.requires_safety_checker is False
    module = sys.modules[type(sdxl).__module__]
    monkeypatch.setattr(module, "is_invisible_watermark_available", lambda: True)
    monkeypatch.setattr(module, "StableDiffusionXLWatermarker", dict, raising=False)
    assert load_pipeline(tmp_path / "sdxl-2x", add_watermarker=False).watermark is None
    assert load_pipeline(tmp_path / "sdxl-2x").watermark == {}
