"""The shipped transformer: what is in its folder, that stock diffusers loads it, and that it draws digits."""

import hashlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, FluxPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from rekernel.diffusion import UpsampleGuidance
from rekernel_cli.demonstration.run import examples
from rekernel_cli.user_code import import_file

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "glyph_transformer"
WEIGHTS = FOLDER / "transformer" / "diffusion_pytorch_model.safetensors"
RESULTS = json.loads((FOLDER / "results.json").read_text())


@pytest.fixture(scope="module")
def drawn(pipe):
    """20 samples, each digit twice, from seeded noise."""
    labels = list(range(10)) * 2
    options = {"num_inference_steps": 10, "output_type": "pt"}
    return pipe(labels, generator=torch.Generator().manual_seed(8), **options).images


def noise(*shape, seed=4):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_weights_are_bfloat16_and_small():
    assert WEIGHTS.stat().st_size < 6_000_000
    with safe_open(WEIGHTS, framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_results_are_those_of_these_weights_and_this_scheduler(pipe):
    assert RESULTS["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert RESULTS["parameters"] == pipe.transformer.num_parameters()
    assert RESULTS["settings"]["data"]["size"] == pipe.config.sample_size
    for name, value in RESULTS["settings"]["sampling"].items():
        assert pipe.scheduler.config[name] == value, name
    for name, value in RESULTS["settings"]["transformer"].items():
        stored = pipe.transformer.config[name]
        assert (list(stored) if isinstance(stored, tuple) else stored) == value, name


def test_where_nothing_is_said_the_samples_reach_the_bar(pipe):
    defaults = {name: p.default for name, p in inspect.signature(pipe.__call__).parameters.items()}
    settings = f"{defaults['num_inference_steps']} steps, guidance {defaults['guidance_scale']}"
    [row] = [row for row in RESULTS["quality"] if row["pictures"] == settings]
    assert row["count"] == 1000 and row["one_object"] >= 0.95 and row["sure"] >= 0.7


def test_the_samples_are_the_digits_asked_for(drawn):
    models = import_file(examples() / "models.py")
    classifier = models.GlyphCNN.from_state_dict(load_file(examples() / "cnn.safetensors"))
    with torch.no_grad():
        guess = classifier(drawn).argmax(1)
    assert (guess == torch.arange(20) % 10).sum() >= 17


def test_samples_of_one_digit_differ(drawn):
    for digit in range(10):
        one, other = drawn[digit::10]
        assert (one - other).square().mean().sqrt() > 0.03, digit


def test_tokens_and_positions_are_those_of_flux():
    pipeline = import_file(FOLDER / "pipeline.py")
    x = noise(2, 1, 6, 10)
    tokens = FluxPipeline._pack_latents(x, 2, 1, 6, 10)
    assert torch.equal(pipeline.packed(x), tokens)
    assert torch.equal(pipeline.unpacked(tokens, 6, 10), x)
    ids = FluxPipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32)
    assert torch.equal(pipeline.positions(3, 5), ids)


def test_other_sizes_are_drawn_at_their_size(pipe):
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(1)}
    (picture,) = pipe(3, height=32, width=32, **options).images
    assert (picture.size, picture.mode) == ((32, 32), "L")
    wide = pipe([3, 4], height=10, width=22, output_type="np", **options).images
    assert wide.shape == (2, 10, 22, 1)
    assert 0 <= wide.min() < wide.max() <= 1


def test_the_same_noise_gives_the_same_picture_however_it_is_passed(pipe):
    options = {"num_inference_steps": 3, "output_type": "np"}
    seeded = pipe([1, 2], generator=torch.Generator().manual_seed(4), **options).images
    given = pipe([1, 2], latents=noise(2, 1, 16, 16), **options).images
    assert np.array_equal(seeded, given)
    alone = pipe(2, latents=noise(2, 1, 16, 16)[1:], **options).images
    assert np.allclose(alone[0], given[1], atol=1e-5)


def test_guidance_moves_from_any_digit_to_the_asked_one_and_beyond(pipe):
    x, t, asked = noise(1, 1, 16, 16, seed=2), torch.tensor(500.0), torch.tensor([7])
    with torch.no_grad():
        free, bound = (pipe._velocity(x, t, label) for label in (torch.tensor([10]), asked))
        for scale in (0.0, 1.0, 2.5):
            guided = pipe._predict(x, t, asked, scale)
            assert torch.allclose(guided, free + scale * (bound - free), atol=1e-4), scale


def test_sampling_goes_on_from_the_middle_where_the_times_and_the_noisy_picture_say_so(pipe):
    seen = []
    keep = lambda _pipe, i, t, tensors: seen.append((i, float(t), tensors["latents"])) or {}  # noqa: E731
    options = {"sigmas": [1.0, 0.7, 0.4, 0.1], "guidance_scale": 1.0, "output_type": "np"}
    whole = pipe(5, latents=noise(1, 1, 16, 16), callback_on_step_end=keep, **options).images
    assert [i for i, *_ in seen] == [0, 1, 2, 3] and seen[0][1] == pytest.approx(1000)
    rest = pipe(5, latents=seen[1][2], **{**options, "sigmas": [0.4, 0.1]}).images
    assert np.allclose(rest, whole, atol=1e-5)


def test_a_callback_may_exchange_the_latents_and_stop(pipe):
    calls = []

    def flat(current, i, _t, _tensors):
        calls.append(i)
        current._interrupt = i == 1
        return {"latents": torch.zeros(1, 1, 16, 16)}

    picture = pipe(5, num_inference_steps=6, output_type="np", callback_on_step_end=flat).images
    assert calls == [0, 1] and np.array_equal(picture, np.full((1, 16, 16, 1), 0.5, np.float32))
    assert pipe(5, num_inference_steps=2, output_type="np").images.std() > 0.05  # the next call starts afresh


def test_another_flow_scheduler_reads_the_same_configuration(pipe):
    other = type(pipe)(pipe.transformer, FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config))
    other.set_progress_bar_config(disable=True)
    start = noise(1, 1, 16, 16)
    fine = pipe(5, num_inference_steps=40, guidance_scale=1.0, latents=start, output_type="np").images
    heun = other(5, num_inference_steps=12, guidance_scale=1.0, latents=start, output_type="np").images
    assert np.abs(heun - fine).mean() < 0.1  # of one ordinary differential equation
    with pytest.raises(ValueError, match="FlowMatchHeunDiscreteScheduler takes no sigmas"):
        other(5, sigmas=[1.0, 0.5])


def test_upsample_guidance_runs_the_transformer_at_both_sizes_and_leaves_nothing(pipe):
    tokens = []
    watch = pipe.transformer.x_embedder.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[1]))
    options = {"height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}
    start = noise(1, 1, 32, 32)
    try:
        alone = pipe(5, latents=start, **options).images
        with UpsampleGuidance(2).attach(pipe):
            guided = pipe(5, latents=start, **options).images
        again = pipe(5, latents=start, **options).images
    finally:
        watch.remove()
    assert tokens == [256] * 2 + [256, 64] * 2 + [256] * 2 or tokens == [256] * 2 + [64, 256] * 2 + [256] * 2
    assert np.array_equal(alone, again) and not np.allclose(alone, guided, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": [1, 11]}, r"numbers from 0 to 10"),
        ({"class_labels": []}, r"one or more numbers"),
        ({"class_labels": 1, "height": 17}, r"multiples of 2"),
        ({"class_labels": 1, "output_type": "jpeg"}, r"output_type='jpeg'"),
        ({"class_labels": 1, "latents": torch.zeros(1, 64, 4)}, r"\(1, 1, 16, 16\) was asked for"),
        ({"class_labels": 1, "callback_on_step_end_tensor_inputs": ["noise"]}, r"\['noise'\] is not among"),
    ],
)
def test_what_cannot_be_drawn_is_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)
