"""Time and sign of rectified-flow networks, judged by their own pipelines in diffusers.

The network knows the picture: what it predicts is made from that picture by the schedule and the kind that rekernel
reads. A pipeline that takes the prediction otherwise ends elsewhere.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import FlowSchedule, UpsampleGuidance, from_x0  # noqa: E402
from rekernel.diffusion.denoiser.call import read_call  # noqa: E402
from rekernel.diffusion.denoiser.scheduler_config import schedule_of  # noqa: E402

from .families import FAMILIES, noise  # noqa: E402

F = torch.nn.functional
EULER = {"shift": 3.0}
DPM = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SIDE = {"height": 128, "width": 128}
TEXT = {"prompt_embeds": noise(1, 3, 8, seed=1)}
MASKED = {"prompt_embeds": noise(1, 3, 8, seed=1), "prompt_attention_mask": torch.ones(1, 3, dtype=torch.long)}
DPM_SOLVER = diffusers.DPMSolverMultistepScheduler


def _dit(net, pipe, **_options):
    """The loop of `DiTPipeline`, which would decode the latents."""
    x = noise(1, 4, 16, 16)
    pipe.scheduler.set_timesteps(4)
    for t in pipe.scheduler.timesteps:
        prediction = net(x, timestep=t[None], class_labels=torch.tensor([1]), return_dict=False)[0]
        x = pipe.scheduler.step(prediction[:, :4], t, x).prev_sample
    return x


class Pair:
    """A denoiser and its scheduler, as a pipeline holds them."""

    def __init__(self, transformer, scheduler):
        self.transformer, self.scheduler = transformer, scheduler


PIXART = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 8,
    "num_attention_heads": 2, "cross_attention_dim": 16, "caption_channels": 8, "use_additional_conditions": False,
}  # fmt: skip
DIT = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 1, "attention_head_dim": 8,
    "num_attention_heads": 2, "num_embeds_ada_norm": 10,
}  # fmt: skip
MOCHI = {
    "patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 16,
    "in_channels": 4, "text_embed_dim": 8, "time_embed_dim": 4, "max_sequence_length": 16,
}  # fmt: skip
VIDEO = {"height": 128, "width": 128, "num_frames": 9}
NONE = {"vae": None, "text_encoder": None, "tokenizer": None}

CASES = {
    "flux": ("FluxPipeline", {"tokenizer_2": None, "text_encoder_2": None}, {
        **SIDE, **TEXT, "pooled_prompt_embeds": noise(1, 6, seed=2)}),
    "flux 2": ("Flux2Pipeline", {}, {**SIDE, **TEXT}),
    "qwen": ("QwenImagePipeline", {}, {
        **SIDE, **TEXT, "prompt_embeds_mask": torch.ones(1, 3, dtype=torch.long), "true_cfg_scale": 1.0}),
    "z-image": ("ZImagePipeline", {}, {
        **SIDE, "prompt_embeds": [noise(3, 8, seed=1)], "negative_prompt_embeds": [noise(3, 8, seed=2)]}),
    "lumina 2": ("Lumina2Pipeline", {}, {
        **SIDE, "guidance_scale": 1.0, "prompt_embeds": noise(1, 3, 8, seed=1),
        "prompt_attention_mask": torch.ones(1, 3, dtype=torch.long)}),
    "ltx": ("LTXPipeline", {}, {**VIDEO, **MASKED, "guidance_scale": 1.0}),
    "wan": ("WanPipeline", {}, {**VIDEO, **TEXT, "guidance_scale": 1.0}),
    "mochi": ("MochiPipeline", {}, {
        **VIDEO, "guidance_scale": 1.0, "prompt_embeds": noise(1, 3, 8, seed=1),
        "prompt_attention_mask": torch.ones(1, 3, dtype=torch.bool)}),
    "pixart": ("PixArtAlphaPipeline", {}, {**SIDE, **MASKED, "guidance_scale": 1.0, "use_resolution_binning": False}),
    "dit": (None, {}, {}),
}  # fmt: skip
EXPECTED = {
    "flux": "flow, FlowSchedule(shift=1, times=1)", "flux 2": "flow, FlowSchedule(shift=1, times=1)",
    "qwen": "flow, FlowSchedule(shift=1, times=1)", "ltx": "flow, FlowSchedule(shift=1, times=1000)",
    "z-image": "negated_flow, FlowSchedule(shift=1, times=1, reverse=True)",
    "lumina 2": "negated_flow, FlowSchedule(shift=1, times=1, reverse=True)",
    "mochi": "negated_flow, FlowSchedule(shift=1, times=1000, reverse=True)",
    "wan": "flow, FlowSchedule(shift=1, times=1000)", "pixart": "flow, FlowSchedule(shift=1, times=1000)",
    "dit": "flow, FlowSchedule(shift=1, times=1000)",
}  # fmt: skip
KINDS = {
    "mochi": (diffusers.MochiTransformer3DModel, MOCHI, diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)),
    "pixart": (diffusers.PixArtTransformer2DModel, PIXART, DPM_SOLVER(**DPM)),
    "dit": (diffusers.DiTTransformer2DModel, DIT, DPM_SOLVER(**DPM)),
    "wan": (None, None, diffusers.UniPCMultistepScheduler(**DPM)),
}


def made(name):
    kind, config, scheduler = KINDS.get(name, (None, None, None))
    torch.manual_seed(0)
    net = FAMILIES[name].made() if kind is None else kind(**config).eval().requires_grad_(False)
    scheduler = scheduler or diffusers.FlowMatchEulerDiscreteScheduler(**EULER)
    pipeline, parts, options = CASES[name]
    if pipeline is None:
        return net, Pair(net, scheduler), options
    pipe = getattr(diffusers, pipeline)(**NONE, **parts, transformer=net, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return net, pipe, options


def sampled(name, net, pipe, options):
    """The latents of the last step, as the network gets them."""
    if name == "dit":
        return _dit(net, pipe)
    last = {}

    def keep(*args):
        last["latents"] = args[-1]["latents"] if isinstance(args[-1], dict) else args[-1]
        return args[-1]

    more = {"callback": keep} if name == "pixart" else {"callback_on_step_end": keep}
    extra = {"negative_prompt": None} if name == "pixart" else {}
    pipe(
        num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="latent", **more, **extra,
        **options,
    )  # fmt: skip
    return last["latents"]


class Knows:
    """A network's forward whose prediction is that of a given picture, at any size that divides the picture's."""

    def __init__(self, net, scheduler):
        self.net, self.scheduler, self.original, self.x0, self.calls = net, scheduler, net.forward, None, []

    def __call__(self, *args, **kwargs):
        output = self.original(*args, **kwargs)
        call = read_call(self.net, args, kwargs)
        schedule, kind = schedule_of(self.scheduler, self.net)
        if self.x0 is None:
            self.x0 = noise(1, *call.x.shape[1:], seed=7)
        pool = [n // m for n, m in zip(self.x0.shape[2:], call.size, strict=True)]
        x0 = (F.avg_pool2d if len(pool) == 2 else F.avg_pool3d)(self.x0, pool)
        snr = schedule.log_snr(call.t)
        self.calls.append(call)
        prediction = from_x0(kind, call.x.double(), x0, float(schedule.alpha(snr)), float(schedule.sigma(snr)))
        return call.with_prediction(output, prediction)


@pytest.mark.parametrize("name", CASES)
def test_a_network_that_knows_the_picture_ends_there(name):
    net, pipe, options = made(name)
    if name in ("lumina 2", "pixart"):
        net.register_to_config(sample_size=8)  # half the size that is sampled
    knows = Knows(net, pipe.scheduler)
    vars(net)["forward"] = knows
    with torch.no_grad():
        latents = sampled(name, net, pipe, options)
        found = knows.calls[0].layout.grid(latents[:, :, None] if name == "z-image" else latents)
        # Solvers of higher order round their times to whole ones, by up to 1/1000 of the schedule.
        near = 1e-4 if isinstance(pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler) else 0.02
        assert found.shape == knows.x0.shape and (found - knows.x0).abs().max() < near
        # Guidance by the exact prediction of the reduced picture changes nothing if time, scale and grid are right.
        before = len(knows.calls)
        scheduler = {"scheduler": pipe.scheduler} if name == "dit" else {}
        with UpsampleGuidance(2, theta=1, eta=1.0).attach(net if scheduler else pipe, **scheduler) as guidance:
            assert EXPECTED[name] in repr(guidance)
            guided = sampled(name, net, pipe, options)
    assert (guided - latents).abs().max() < near
    sizes = [call.size[-2:] for call in knows.calls[before:]]
    full = tuple(knows.x0.shape[-2:])
    assert sizes == [full, tuple(n // 2 for n in full)] * (len(sizes) // 2) and len(sizes) >= 8


def test_the_noisy_end_of_a_schedule_that_runs_backwards():
    schedule = FlowSchedule(times=1000, reverse=True)
    assert schedule.fraction([0, 250, 1000]).tolist() == [1.0, 0.75, 0.0]
    assert schedule.log_snr(300) == pytest.approx(FlowSchedule(times=1000).log_snr(700))
    assert schedule.time(schedule.log_snr([10.0, 900.0])) == pytest.approx([10, 900])
    window = rk.diffusion.Window(1.0, start=100, stop=600)  # from noise at 100 to less noise at 600
    assert window.weight(schedule, [50, 100, 400, 700]).tolist() == [0, 1, 1, 0]
    with pytest.raises(rk.RekernelError, match="start=100 is cleaner than stop=600; give start= the noisier time"):
        window.weight(FlowSchedule(times=1000), 400)
