"""Kinds of pipelines: what a cascade makes of their parts, and what it refuses before it samples."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import FlowSchedule, GuidedCascade, UpsampleGuidance  # noqa: E402

from ..conftest import CONDITIONED, LATENTS, SD, quiet  # noqa: E402
from .families import FAMILIES, kl, made, noise  # noqa: E402


def seeded():
    return torch.Generator().manual_seed(0)


def test_a_call_without_steps(sd):
    with pytest.raises(rk.RekernelError, match="num_inference_steps=0 must be at least 1"):
        GuidedCascade(sd, [16, 32])("a cat", num_inference_steps=0)


def test_weights_that_are_listed_by_step_are_refused(nets):
    """As Ideogram 4 has them: a stage would take the weights of the first steps."""

    class Listed:
        unet, scheduler = nets.unet, nets.ddim

        def __call__(self, num_inference_steps=4, latents=None, guidance_scale=None, guidance_schedule=(7.0, 3.0)): ...

    cascade = GuidedCascade(Listed(), [8, 16])
    with pytest.raises(rk.RekernelError, match="guidance_schedule: its entries count from the first step"):
        cascade()


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_compiled_part(sd, part):
    options = {"num_inference_steps": 4, "output_type": "pt"}
    wanted = GuidedCascade(sd, [16, 32])("a cat", generator=seeded(), **options).images
    setattr(sd, part, torch.compile(getattr(sd, part), backend="eager"))
    found = GuidedCascade(sd, [16, 32])("a cat", generator=seeded(), **options).images
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen"])
def test_latents_without_an_autoencoder(name):
    """Their pipelines then count 8 pixels for one of the latents."""
    family = FAMILIES[name]
    whole = family.pipe()
    pipe = quiet(type(whole)(**{**whole.components, "vae": None}))
    cascade = GuidedCascade(pipe, [64, 128], enlarge="latent")
    with pytest.raises(rk.RekernelError, match="has no VAE to decode the result; pass output_type='latent'"):
        cascade(**family.call())
    found = cascade(**family.call(output_type="latent", generator=seeded()))[0]
    same = GuidedCascade(whole, [16, 32], enlarge="latent")
    wanted = same(**family.call(output_type="latent", generator=seeded()))[0]
    assert torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(rk.RekernelError, match="has no VAE to encode the given picture"):
        cascade(**family.call(image=torch.zeros(1, 3, 64, 64)))
    with pytest.raises(rk.RekernelError, match="has no VAE to enlarge pictures with; pass enlarge='latent'"):
        GuidedCascade(pipe, [64, 128])


def test_an_autoencoder_called_movq():
    """Kandinsky: its latents have no scale, are decoded without the code book, and are rounded to whole cells."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    movq = made(
        diffusers.VQModel, block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1, latent_channels=4,
        vq_embed_dim=4, num_vq_embeddings=12, **blocks,
    )  # fmt: skip
    shown = {"encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj", "addition_embed_type": "image"}
    config = {**CONDITIONED, **LATENTS, **shown, "out_channels": 8, "addition_embed_type_num_heads": 2}
    unet = made(diffusers.UNet2DConditionModel, **config)
    scheduler = diffusers.DDIMScheduler(**SD, clip_sample=False)
    pipe = quiet(diffusers.KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq))
    options = {"image_embeds": noise(2, 8), "negative_image_embeds": noise(2, 8), "num_inference_steps": 4}
    cascade = GuidedCascade(pipe, [16, 32])
    latents = pipe(**options, height=16, width=16, generator=seeded(), output_type="latent").images
    given = []

    def twice(pixels):
        given.append(pixels)
        return torch.nn.functional.interpolate(pixels, scale_factor=2)

    found = GuidedCascade(pipe, [16, 32], enlarge=twice)(**options, generator=seeded(), output_type="pt").images
    wanted = movq.decode(latents, force_not_quantize=True).sample / 2 + 0.5
    assert found.shape == (2, 3, 32, 32) and torch.allclose(given[0], wanted.clamp(0, 1), atol=1e-5)
    pictures = torch.rand(2, 3, 16, 16, generator=seeded())
    assert cascade(image=pictures, **options, output_type="pt").images.shape == (2, 3, 32, 32)
    with pytest.raises(rk.RekernelError, match="KandinskyV22Pipeline, which takes multiples of 4; 16x16 or 20x20 do"):
        GuidedCascade(pipe, [16, 18])


def test_pipelines_whose_denoiser_has_another_name(nets):
    class Decoding(diffusers.DiffusionPipeline):
        def __init__(self, decoder, scheduler):
            super().__init__()
            self.register_modules(decoder=decoder, scheduler=scheduler)

        def __call__(self, num_inference_steps=4): ...

    with pytest.raises(rk.RekernelError, match="Decoding has no unet or transformer, so a cascade cannot take it"):
        GuidedCascade(Decoding(nets.unet, nets.ddim), [8, 16])
    combined = Decoding(nets.unet, nets.ddim)
    combined.unet, combined.decoder_pipe = nets.unet, None
    with pytest.raises(rk.RekernelError, match="Decoding calls other pipelines; make the cascade of"):
        GuidedCascade(combined, [8, 16])


def test_a_schedule_of_the_user_s_is_an_option(nets):
    """The message for a network of unknown times says to pass schedule= and prediction=."""
    flow = {"schedule": FlowSchedule(times=1000), "prediction": "flow"}
    family = FAMILIES["sd3"]
    found = GuidedCascade(family.pipe(), [16, 32], guidance={**flow, "eta": 1.0})(**family.call(generator=seeded()))[0]
    same = GuidedCascade(family.pipe(), [16, 32], guidance=UpsampleGuidance(eta=1.0))
    assert torch.equal(found, same(**family.call(generator=seeded()))[0])
    with pytest.raises(rk.RekernelError, match="guidance: no option scale; there are theta"):
        GuidedCascade(family.pipe(), [16, 32], guidance={"scale": 2})


def test_oblong_sizes_of_pipelines_that_take_no_size(nets):
    network, scheduler = nets.unconditioned(), diffusers.DDIMScheduler()
    squares = diffusers.ConsistencyModelPipeline(network, diffusers.CMStochasticIterativeScheduler())
    with pytest.raises(rk.RekernelError, match="ConsistencyModelPipeline takes no height and width, and makes squares"):
        GuidedCascade(squares, [8, (16, 8)])
    pipe = quiet(diffusers.DDIMPipeline(network, scheduler))
    found = GuidedCascade(pipe, [8, (16, 8)], guidance=False)(num_inference_steps=4, output_type="np").images
    assert found.shape == (1, 16, 8, 3)


@pytest.mark.parametrize("sides", [(32, 32), (32, 16)])
def test_the_low_pass_of_cogview_is_told_its_own_size(sides):
    """Its sizes are plain arguments of the network, not conditions in a dictionary."""
    transformer = made(
        diffusers.CogView3PlusTransformer2DModel, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, out_channels=4, text_embed_dim=8, time_embed_dim=8, condition_dim=2,
        pos_embed_max_size=32, sample_size=8,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")
    pipe = quiet(
        diffusers.CogView3PlusPipeline(
            tokenizer=None, text_encoder=None, vae=kl(), transformer=transformer, scheduler=scheduler
        )
    )  # fmt: skip
    grids, told = [], []
    transformer.patch_embed.register_forward_pre_hook(lambda _m, args: grids.append(args[0].shape[-2:]))
    transformer.time_condition_embed.register_forward_pre_hook(
        lambda _m, args: told.append([pair[0].tolist() for pair in args[1:4]])
    )
    options = {"prompt_embeds": noise(1, 5, 8), "negative_prompt_embeds": noise(1, 5, 8, seed=1)}
    with UpsampleGuidance(tuple(n / 16 for n in sides), eta=1.0).attach(pipe):
        pipe(height=sides[0], width=sides[1], crops_coords_top_left=(8, 4), num_inference_steps=2, **options)
    assert {tuple(grid) for grid in grids} == {(8, 8), (sides[0] // 2, sides[1] // 2)}
    for grid, (original, target, crop) in zip(grids, told, strict=True):
        size = [2.0 * n for n in grid]
        assert original == target == size
        assert crop == [8 * size[0] / sides[0], 4 * size[1] / sides[1]]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_running_out_of_memory_while_kernels_are_planned_is_said_as_it_is(sd, error):
    calls = []

    def full(*_):
        calls.append(1)
        if len(calls) == 5:  # after the four steps of the first stage, the pass that plans
            raise error("no memory is left")

    sd.unet.mid_block.resnets[0].register_forward_pre_hook(full)
    cascade = GuidedCascade(sd, [16, 32], kernels=True)
    with pytest.raises(error, match="no memory is left"):
        cascade("a cat", num_inference_steps=4)
    assert "forward" not in vars(sd.unet)


def test_what_is_said_before_the_first_stage_and_not_after_it(nets, sd):
    class HiDreamImagePipeline:
        unet, scheduler = nets.unet, nets.ddim

        def __call__(self, num_inference_steps=4): ...

    with pytest.raises(rk.RekernelError, match="HiDreamImagePipeline moves every size to its own area"):
        GuidedCascade(HiDreamImagePipeline(), [8, 16])
    lumina = made(
        diffusers.LuminaNextDiT2DModel, sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=16, cross_attention_dim=8,
    )  # fmt: skip
    with pytest.raises(rk.RekernelError, match="LuminaNextDiT2DModel: its pipeline gives it image_rotary_emb"):
        UpsampleGuidance(2, schedule=FlowSchedule(), prediction="flow").attach(lumina)
    assert "_diffusers_hook" not in vars(lumina)
    adapter = made(
        diffusers.MotionAdapter, block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )  # fmt: skip
    parts = {name: part for name, part in sd.components.items() if name in ("vae", "text_encoder", "tokenizer")}
    moving = diffusers.AnimateDiffPipeline(unet=sd.unet, scheduler=sd.scheduler, motion_adapter=adapter, **parts)
    moving.enable_free_init(num_iters=2)
    with pytest.raises(rk.RekernelError, match=r"FreeInit samples from noise again; call disable_free_init\(\) first"):
        GuidedCascade(moving, [16, 32])("a cat", num_inference_steps=4, num_frames=2)


def test_a_pipeline_that_moves_sizes_to_an_area():
    flux = FAMILIES["flux"]
    pipe = quiet(diffusers.FluxKontextPipeline(**flux.pipe().components))
    assert GuidedCascade(pipe, list(flux.sizes))(**flux.call())[0].shape == (1, 3, 32, 32)


def test_the_low_pass_of_chroma_has_a_mask_of_its_own_tokens():
    """Its network gets one mask for the text and the tokens of the image."""
    transformer = made(
        diffusers.ChromaTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(4, 6, 6),
        approximator_hidden_dim=16, approximator_layers=1, approximator_num_channels=16,
    )  # fmt: skip
    parts = {name: part for name, part in FAMILIES["flux"].pipe().components.items() if name in ("scheduler", "vae")}
    pipe = quiet(diffusers.ChromaPipeline(**parts, text_encoder=None, tokenizer=None, transformer=transformer))
    masks = {"prompt_attention_mask": torch.ones(1, 5), "negative_prompt_attention_mask": torch.ones(1, 5)}
    text = {"prompt_embeds": noise(1, 5, 8), "negative_prompt_embeds": noise(1, 5, 8, seed=1), **masks}
    cascade = GuidedCascade(pipe, [16, 32], guidance={"schedule": FlowSchedule(), "prediction": "flow", "eta": 1.0})
    assert cascade(**text, num_inference_steps=4, output_type="pt")[0].shape == (1, 3, 32, 32)
    assert cascade.passes == pytest.approx(2 * (4 / 4 + 2 + 2 / 4))
