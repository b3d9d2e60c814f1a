"""The shipped diffusion model: what is in its folder, that stock diffusers loads it, and that it draws digits."""

import hashlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from rekernel_cli.demonstration.run import examples
from rekernel_cli.user_code import import_file

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "glyph_diffusion"
WEIGHTS = FOLDER / "unet" / "diffusion_pytorch_model.safetensors"
RESULTS = json.loads((FOLDER / "results.json").read_text())


@pytest.fixture(scope="module")
def drawn(pipe):
    """40 samples, each digit four times, from seeded noise."""
    return pipe(list(range(10)) * 4, generator=torch.Generator().manual_seed(8), output_type="pt").images


def test_the_weights_are_float16_and_small():
    assert WEIGHTS.stat().st_size < 5_000_000
    with safe_open(WEIGHTS, framework="np") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_results_are_those_of_these_weights_and_this_scheduler(pipe):
    assert RESULTS["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    settings = RESULTS["settings"]
    for name, value in {**settings["noise"], **settings["sampling"]}.items():
        assert pipe.scheduler.config[name] == value, name
    for name, value in settings["unet"].items():
        assert pipe.unet.config[name] == value, name


def test_the_last_time_is_noise_and_nothing_else(pipe):
    kept = pipe.scheduler.alphas_cumprod[-1]
    assert kept / (1 - kept) < 1e-4


def test_the_samples_are_the_digits_asked_for(drawn):
    models = import_file(examples() / "models.py")
    classifier = models.GlyphCNN.from_state_dict(load_file(examples() / "cnn.safetensors"))
    with torch.no_grad():
        guess = classifier(drawn).argmax(1)
    assert (guess == torch.arange(40) % 10).sum() >= 36


def test_a_classifier_of_true_glyphs_is_sure_of_its_own_samples(pipe):
    """As it samples where nothing is said; results.json counts 1,000, this is a smaller sample of its own."""
    defaults = {name: p.default for name, p in inspect.signature(pipe.__call__).parameters.items()}
    settings = f"{defaults['num_inference_steps']} steps, guidance {defaults['guidance_scale']}"
    [row] = [row for row in RESULTS["quality"]["rows"] if row["pictures"] == settings]
    assert row["count"] == 1000 and row["sure"] > 0.95
    labels = torch.arange(100) % 10
    images = pipe(labels, generator=torch.Generator().manual_seed(21), output_type="pt").images
    classifier = import_file(examples() / "models.py").GlyphCNN.from_state_dict(
        load_file(examples() / "cnn.safetensors")
    )
    with torch.no_grad():
        asked = classifier(images).softmax(1).gather(1, labels[:, None])
    assert (asked > 0.9).sum() >= 90  # of 95 expected


def test_samples_of_one_digit_differ(drawn):
    for digit in range(10):
        apart = torch.pdist(drawn[digit::10].flatten(1)).min() / 16
        assert apart > 0.03, digit  # root mean square difference of the nearest two, in [0, 1]


def test_other_sizes_are_drawn_at_their_size(pipe):
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(1)}
    (picture,) = pipe(3, height=32, width=32, **options).images
    assert (picture.size, picture.mode) == ((32, 32), "L")
    wide = pipe([3, 4], height=12, width=20, output_type="np", **options).images
    assert wide.shape == (2, 12, 20, 1)
    assert 0 <= wide.min() < wide.max() <= 1


def test_the_same_noise_gives_the_same_picture_however_it_is_passed(pipe):
    noise = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    options = {"num_inference_steps": 3, "output_type": "np"}
    seeded = pipe([1, 2], generator=torch.Generator().manual_seed(4), **options).images
    given = pipe([1, 2], latents=noise, **options).images
    assert np.array_equal(seeded, given)
    alone = pipe(2, latents=noise[1:], **options).images
    assert np.allclose(alone[0], given[1], atol=1e-5)


def test_guidance_moves_from_any_digit_to_the_asked_one_and_beyond(pipe):
    x, t = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor(500)
    asked, anything = torch.tensor([7]), torch.tensor([10])
    with torch.no_grad():
        free, bound = (pipe.unet(x, t, class_labels=label).sample for label in (anything, asked))
        for scale in (0.0, 1.0, 2.5):
            guided = pipe._predict(x, t, asked, scale)
            assert torch.allclose(guided, free + scale * (bound - free), atol=1e-5), scale


@pytest.mark.parametrize("kind", [DDPMScheduler, DPMSolverMultistepScheduler])
def test_other_schedulers_read_the_same_configuration(pipe, kind):
    other = type(pipe)(pipe.unet, kind.from_config(pipe.scheduler.config))
    other.set_progress_bar_config(disable=True)
    pictures = [
        other([5], num_inference_steps=4, generator=torch.Generator().manual_seed(3), output_type="np").images
        for _ in range(2)
    ]
    assert np.array_equal(*pictures)  # the noise drawn on the way comes from the generator too
    assert np.ptp(pictures[0]) > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": [1, 11]}, r"numbers from 0 to 10"),
        ({"class_labels": []}, r"one or more numbers"),
        ({"class_labels": 1, "height": 18}, r"multiples of 4"),
        ({"class_labels": 1, "output_type": "jpeg"}, r"output_type='jpeg'"),
        ({"class_labels": 1, "latents": torch.zeros(2, 1, 16, 16)}, r"\(1, 1, 16, 16\) was asked for"),
    ],
)
def test_what_cannot_be_drawn_is_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)
