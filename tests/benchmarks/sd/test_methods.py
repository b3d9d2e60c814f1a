"""A method of the study is what the library or the peer does when it is called by hand, and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from generation import Generation, loaded  # noqa: E402
from methods import NotApplicableError, Sizes, attached, sizes_of  # noqa: E402
from peers import ADAPTERS  # noqa: E402
from study import PEERS, Method, Model  # noqa: E402
from work_items import FAILED, SKIPPED, Item, Store  # noqa: E402

from rekernel.diffusion import GuidedCascade, RescaledPositions, SupersampledKernels, UpsampleGuidance  # noqa: E402

CALL = {"num_inference_steps": 2, "guidance_scale": 7.5}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(folders):
    return Model("sd", str(folders["sd"]), steps=2, multiple=8)


@pytest.fixture(scope="module")
def pipe(model):
    return loaded(model, CPU)


def generator():
    return torch.Generator("cpu").manual_seed(3)


def drawn(pipe, model, method, side=32):
    with attached(pipe, method, model, sizes_of(pipe, model), side) as (draw, _):
        return np.asarray(draw("a cat", generator()))


def called(pipe, side, **more):
    return pipe("a cat", height=side, width=side, generator=generator(), **CALL, **more).images[0]


def test_the_names_of_the_peers():
    assert list(ADAPTERS) == list(PEERS)


def test_sizes_are_those_of_the_pipeline_unless_the_study_says_others(pipe, model):
    assert sizes_of(pipe, model) == Sizes(16, 8)
    assert sizes_of(pipe, Model("sd", "x", trained=24, multiple=16)) == Sizes(24, 16)
    assert Sizes(16, 8).side(2) == 24 and Sizes(16, 2).side(2) == 22 and Sizes(16, 8).side(4) == 32
    assert Sizes(1024, 16).side(2) == 1456 and Sizes(512, 8).side(2) == 728


def test_each_lever_is_attached_with_its_options(pipe, model):
    plain = np.asarray(called(pipe, 32))
    assert np.array_equal(drawn(pipe, model, Method("m")), plain)
    with UpsampleGuidance(2, theta=1.5, eta=1.0).attach(pipe):
        by_hand = np.asarray(called(pipe, 32))
    assert not np.array_equal(by_hand, plain)
    assert np.array_equal(drawn(pipe, model, Method("m", guidance={"theta": 1.5, "eta": 1.0})), by_hand)
    with SupersampledKernels(2, method="dilate").attach(pipe), UpsampleGuidance(2).attach(pipe):
        by_hand = np.asarray(called(pipe, 32))
    assert np.array_equal(drawn(pipe, model, Method("m", guidance=True, kernels={"method": "dilate"})), by_hand)
    assert np.array_equal(drawn(pipe, model, Method("m", guidance=False)), plain)


def test_positions_of_a_transformer(folders):
    model = Model("flux", str(folders["flux"]), steps=2, trained=16, multiple=8, call={"max_sequence_length": 16})
    pipe = loaded(model, CPU)
    with RescaledPositions(2, "yarn", temperature=0).attach(pipe):
        by_hand = np.asarray(called(pipe, 32, max_sequence_length=16))
    assert not np.array_equal(by_hand, np.asarray(called(pipe, 32, max_sequence_length=16)))
    assert np.array_equal(drawn(pipe, model, Method("m", positions={"method": "yarn", "temperature": 0})), by_hand)


@pytest.mark.parametrize("guidance", [None, True, {"theta": 1.5}])
def test_a_cascade_is_guided_as_the_study_says_and_by_default_not(pipe, model, guidance):
    cascade = GuidedCascade(pipe, [16, 32], strength=0.5, guidance=guidance or False)
    by_hand = cascade("a cat", generator=generator(), **CALL).images[0]
    assert np.array_equal(drawn(pipe, model, Method("m", kind="cascade", guidance=guidance)), np.asarray(by_hand))


def test_four_times_the_side_is_a_cascade_of_three_stages(pipe, model):
    method = Method("m", kind="cascade", strength=[0.5, 0.5])
    with attached(pipe, method, model, sizes_of(pipe, model), 64) as (_, said):
        assert "16x16 -> 32x32 at 0.5 -> 64x64 at 0.5" in said


def test_an_enlarged_sample(pipe, model):
    small = called(pipe, 16)
    assert np.array_equal(drawn(pipe, model, Method("m", kind="enlarged")), np.asarray(small.resize((32, 32), 3)))


def test_image_to_image_of_diffusers(pipe, model):
    rng = generator()
    small = pipe("a cat", height=16, width=16, generator=rng, **CALL).images[0].resize((32, 32), 1)
    second = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    by_hand = second("a cat", image=small, strength=0.6, generator=rng, **CALL).images[0]
    method = Method("m", kind="peer", peer="img2img", options={"strength": 0.6})
    assert np.array_equal(drawn(pipe, model, method), np.asarray(by_hand))


@pytest.mark.parametrize(
    ("method", "side", "said"),
    [
        (Method("m", positions={"method": "yarn"}), 32, "for a transformer, and StableDiffusionPipeline has a unet"),
        (Method("m", only="transformer"), 32, "for a transformer"),
        (Method("m", kind="cascade", strength=[0.5, 0.5]), 32, "2 given, but the cascade has 1"),
        (Method("m", kind="peer", peer="hidiffusion"), 32, "hidiffusion cannot be imported: "),
    ],
)
def test_what_cannot_run_says_why(pipe, model, method, side, said):
    with pytest.raises(NotApplicableError, match=said), attached(pipe, method, model, sizes_of(pipe, model), side):
        pass


def test_a_refusal_while_sampling_is_a_reason_and_another_error_is_a_failure(model, tmp_path):
    store, told = Store(tmp_path), []
    dilated = [Item(model, 2.0, Method("dilated", kernels={"method": "dilate"}), p, 0) for p in ("a", "b")]
    broken = Model("broken", model.source, steps=2, multiple=8, call={"clip_skip": 99})
    failing = [Item(broken, 4.0, Method("untouched"), p, 0) for p in ("a", "b")]
    good = [Item(model, 4.0, Method("untouched"), "a", 0)]
    Generation(store, CPU, told.append, ["a", "b"]).run([*dilated, *failing, *good])
    records = [store.record(item) for item in (*dilated, *failing)]
    assert [record["state"] for record in records] == [SKIPPED, SKIPPED, FAILED, FAILED]
    assert "cannot move 3 taps" in records[0]["reason"]
    assert records[2]["reason"].startswith("IndexError")
    assert store.missing([*dilated, *failing, *good]) == failing
    assert len(told) == 5 and all("\n" not in line for line in told)
