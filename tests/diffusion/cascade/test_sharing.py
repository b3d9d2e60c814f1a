"""Several users of one network: a cascade guides and counts its own calls alone, and cascades take turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from rekernel.diffusion import GuidedCascade  # noqa: E402

from ..conftest import quiet  # noqa: E402
from .conftest import state  # noqa: E402
from .families import FAMILIES  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def other(sd):
    """A second pipeline around the network of the first, with a scheduler of its own."""
    made = diffusers.StableDiffusionPipeline.from_pipe(sd, requires_safety_checker=False)
    made.scheduler = type(sd.scheduler).from_config(sd.scheduler.config)
    return quiet(made)


def plain(pipe, size):
    return pipe("a dog", num_inference_steps=3, height=size, width=size, output_type="pt", generator=seeded(1)).images


@pytest.mark.parametrize("where", ["in a thread", "in the callback itself"])
def test_another_pipeline_with_the_same_network_is_not_guided(sd, other, where):
    options = {"prompt": "a cat", "num_inference_steps": 4, "output_type": "pt"}
    cascade = GuidedCascade(sd, [16, 32], guidance={"eta": 1.0}, kernels=True)
    wanted, passes, before = cascade(**options, generator=seeded()).images, cascade.passes, state(sd)
    alone, found = {size: plain(other, size) for size in (16, 32)}, {}

    def sample():
        found.update({size: plain(other, size) for size in alone})

    def look(_pipe, step, _time, _tensors):
        if step == 4 and where == "in a thread":
            thread = threading.Thread(target=sample)
            thread.start()
            thread.join()
        elif step == 4:
            sample()
        return {}

    again = cascade(**options, generator=seeded(), callback_on_step_end=look).images
    assert torch.equal(again, wanted) and cascade.passes == passes and state(sd) == before
    assert all(torch.equal(found[size], alone[size]) for size in alone)


def test_two_cascades_at_once(sd, other):
    options = {"num_inference_steps": 4, "output_type": "pt"}
    cascades = [GuidedCascade(pipe, [16, 32]) for pipe in (sd, other, sd)]

    def run(number):
        return cascades[number]("a cat", **options, generator=seeded(number)).images

    alone, before = [run(number) for number in range(3)], state(sd)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, range(3)))
    assert all(map(torch.equal, found, alone)) and state(sd) == before


def test_the_start_of_an_inpainting_stage_is_for_its_own_calls():
    flux = FAMILIES["flux"]
    parts = flux.pipe().components
    pipe, other = quiet(diffusers.FluxInpaintPipeline(**parts)), quiet(diffusers.FluxPipeline(**parts))
    other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    options = flux.call(num_inference_steps=2, height=32, width=32)
    alone, found = other(**options, generator=seeded())[0], []

    def look(*_):  # before the loop of each stage, when its start is waiting for the first step
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(lambda: other(**options, generator=seeded())[0]).result())

    cascade = GuidedCascade(pipe, list(flux.sizes), guidance=False, enlarge="latent")
    handle = pipe.vae.encoder.register_forward_pre_hook(look)
    shown = {"image": torch.rand(1, 3, 32, 32), "mask_image": torch.ones(1, 1, 32, 32), "strength": 1.0}
    cascade(**flux.call(num_inference_steps=4, **shown))
    handle.remove()
    assert len(found) >= 2 and all(torch.equal(each, alone) for each in found)
