"""Slips in what a caller passes: each is named by the parameter and the layer, whatever the mode, or is noted."""

import math

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel import RekernelError
from rekernel.planning.settings import Hints
from rekernel.torch.editing.memory import refuse_too_large

SHAPES = {
    "conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "conv2.weight": (16, 8, 3, 3), "fc1.weight": (10, 256),
}  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(256, 10)

    def forward(self, x):
        return self.fc1(nn.functional.adaptive_avg_pool2d(self.conv2(self.conv1(x).relu()), 4).flatten(1))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("slips") / "net.safetensors"
    save_file({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, path)
    return path


def traced(scale=2, **options):
    return rkt.rescale(Net(), scale, torch.zeros(1, 3, 16, 16), **options).rekernel_plan


def named(file, scale=2, **options):
    return rk.plan_checkpoint(file, scale, **{"mode": "absorb", **options})


BOTH = pytest.mark.parametrize("mode", ["absorb", "supersample"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"methods": {"conv1*": "cubic"}},
            r"methods: 'cubic' for conv1\* is not a dict of settings; pass one: methods=",
        ),
        ({"methods": "cubic"}, r"methods='cubic' is not a dict with a pattern for each value"),
        ({"methods": [("conv1*", "cubic")]}, r"methods=\[.* is not a dict with a pattern"),
        (
            {"methods": {"conv1*": {"metod": "cubic"}}},
            r"methods conv1\*: metod is not a setting; they are scale, method",
        ),
        ({"methods": {"conv1*": {"taps": 0}}}, r"methods conv1\*: taps=0 is neither a number of taps"),
        ({"methods": {3: {"method": "cubic"}}}, r"methods=\{3: .* is not a dict with a pattern"),
        ({"modes": "absorb"}, r"modes='absorb' is not a dict with a pattern for each value; pass one: modes="),
        ({"exclude": [3]}, r"exclude: 3 is not a pattern; pass a list of layer names"),
        ({"include": 3}, r"include: 3 is not a pattern"),
    ],
)
def test_what_should_be_a_dict_or_a_list_is_named_by_its_parameter(options, words):
    with pytest.raises(RekernelError, match=words):
        traced(**options)


@pytest.mark.parametrize(
    "field", ["linear_grid", "output_grid", "order", "stride", "padding", "layout", "mode", "grid"]
)
def test_a_hint_that_is_not_a_dict_is_named(file, field):
    with pytest.raises(RekernelError, match=rf"{field}='conv1' is not a dict with a pattern for each value"):
        named(file, hints=Hints(**{field: "conv1"}))


@pytest.mark.parametrize("options", [{"overrides": {"conv1*": "cubic"}}, {"overrides": "cubic"}])
def test_overrides_are_called_overrides_where_names_are_planned(file, options):
    with pytest.raises(RekernelError, match=r"^overrides"):
        named(file, **options)


def test_a_text_is_one_pattern(file):
    kept = {c.name for c in traced(exclude="conv1*", mode="supersample").changes if c.kept}
    assert kept >= {"conv1.weight"} and "conv2.weight" not in kept
    assert {c.name for c in named(file, mode="supersample", include="conv2*").changed} == {"conv2.weight"}
    assert {c.name for c in named(file, mode="supersample", exclude="conv2*").changed} == {"conv1.weight"}
    model = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    assert rkt.recalibrate(model, torch.rand(4, 1, 4, 4), exclude="1").layers == ("0",)


@BOTH
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"taps": 0}, "taps=0 is neither a number of taps, 1 or more, nor one of full, same-extent"),
        ({"taps": 2.5}, r"taps=2\.5 is neither"),
        ({"taps": "fulll"}, "taps='fulll' is neither"),
        ({"taps": True}, "taps=True is neither"),
        ({"smoothness": 5}, "smoothness=5 must be at least 0 and below 1"),
        ({"smoothness": "small"}, "smoothness='small' must be"),
        ({"a": "x"}, "a='x' is not a number"),
        ({"a": float("nan")}, "a=nan is not a number"),
        ({"gain": "dcc"}, "gain='dcc' is not one of"),
        ({"method": "cubc"}, "method='cubc' is not one of"),
        ({"method": 3}, "method='3' is not the name of a method"),
        ({"reading_filter": "aera"}, "'aera' is not one of"),
    ],
)
def test_impossible_settings_are_refused_whatever_the_mode(file, mode, options, words):
    for plan in (lambda: traced(mode=mode, **options), lambda: named(file, mode=mode, **options)):
        with pytest.raises(RekernelError, match=words) as error:
            plan()
        assert "mode='absorb' works" not in str(error.value)


@BOTH
@pytest.mark.parametrize("scale", [1000, 224, 65, (2, 224), 1e-3, float("inf"), -2, 0])
def test_a_size_given_as_a_scale_is_refused_before_memory_is_used(file, mode, scale):
    for plan in (lambda: traced(scale, mode=mode), lambda: named(file, scale, mode=mode)):
        with pytest.raises(RekernelError, match=r"scale=.*(is new pixels per old pixel|must be a number above 0)"):
            plan()


def test_the_refusal_names_the_size_that_was_meant():
    with pytest.raises(RekernelError, match=r"did you mean size=\(224, 224\)\?$"):
        traced(224)
    with pytest.raises(RekernelError, match=r"did you mean size=\(1, 320\)\?$"):
        rkt.rescale(Net(), (1, 320), torch.zeros(1, 3, 16, 20))


def test_a_scale_of_one_layer_is_looked_at_too(file):
    with pytest.raises(RekernelError, match=r"overrides conv1\*: scale=224 is new pixels"):
        named(file, overrides={"conv1*": {"scale": 224}})


def test_settings_of_layers_that_stay_are_noted(file):
    for plan in (
        traced(methods={"conv2*": {"method": "cubic"}}),
        named(file, overrides={"conv2*": {"method": "cubic"}}),
    ):
        assert any(
            note.startswith("method=cubic for conv2* has no effect: conv2.weight stays (") for note in plan.warnings
        )
    both = traced(methods={"conv*": {"method": "cubic"}})
    assert not any("no effect" in note for note in both.warnings)  # conv1 took it over
    grown = traced(mode="supersample", methods={"conv2*": {"method": "cubic"}})
    assert not any("no effect" in note for note in grown.warnings)


def test_taps_that_the_default_method_drops_are_noted(file):
    for plan in (traced(methods={"conv1": {"taps": 7}}), named(file, overrides={"conv1": {"taps": 7}})):
        [note] = [note for note in plan.warnings if "no effect" in note]
        assert note.startswith("taps=7 for conv1 has no effect: conv1.weight becomes area 3->6")
    assert any(note.startswith("taps=7 has no effect") for note in traced(taps=7).warnings)
    taken = traced(methods={"conv1": {"taps": 7, "method": "cubic"}})
    assert not any("no effect" in note for note in taken.warnings)
    assert next(c for c in taken.changed).new_shape[-1] == 7


@pytest.mark.parametrize(("key", "value"), [("smoothness", 0.2), ("a", -0.75)])
def test_numbers_of_a_method_that_no_layer_uses_are_noted(key, value):
    assert any(note.startswith(f"{key}={value} has no effect") for note in traced(**{key: value}).warnings)
    method = {"smoothness": "optimal", "a": "cubic"}[key]
    assert not any("no effect" in note for note in traced(**{key: value}, method=method).warnings)


@pytest.mark.parametrize("grid", [(32, 4, 4), (4, 4), (16, 4, 5)])
@BOTH
def test_an_impossible_grid_is_refused_whatever_the_mode(file, mode, grid):
    with pytest.raises(RekernelError, match=r"fc1\.weight"):
        named(file, mode=mode, hints=Hints(linear_grid={"fc1": grid}))


@pytest.mark.parametrize("grid", [(16,), "16,4,4", (16, 0, 4), 256])
def test_a_grid_of_another_kind_is_refused(file, grid):
    with pytest.raises(RekernelError, match=r"linear_grid of fc1: .* is not channels and then the size"):
        named(file, hints=Hints(linear_grid={"fc1": grid}))


def test_a_possible_grid_of_a_layer_that_stays_is_noted(file):
    notes = named(file, hints=Hints(linear_grid={"fc1": (16, 4, 4)})).warnings
    assert any(note.startswith("the hint linear_grid of fc1 has no effect: fc1.weight stays") for note in notes)
    notes = named(file, mode="supersample", hints=Hints(linear_grid={"fc1": (16, 4, 4)})).warnings
    assert not any("no effect" in note for note in notes)


def test_a_scale_for_another_number_of_axes_is_refused_where_one_layer_absorbs(file):
    with pytest.raises(
        RekernelError, match=r"conv1\.weight .* reads the image along 2 axes, but the scale 2x2x2 has 3"
    ):
        named(file, (2, 2, 2))


@BOTH
def test_a_scale_of_1_says_so_and_claims_no_layer_that_absorbs(file, mode, tmp_path):
    plan = named(file, 1, mode=mode)
    assert plan.empty and {change.reason for change in plan.changes} == {"the scale is 1"}
    with pytest.raises(RekernelError, match=r"the plan changes nothing\. Note: the scale is 1"):
        rk.convert(file, tmp_path / "out.safetensors", scale=1, mode=mode)
    only = named(file, 1, mode=mode, overrides={"conv1*": {"scale": 2}})
    assert [change.name for change in only.changed] == ["conv1.weight"]


VIT = {
    "embeddings.cls_token": (1, 1, 8), "embeddings.position_embeddings": (1, 65, 8),
    "embeddings.patch_embeddings.projection.weight": (8, 3, 8, 8), "embeddings.patch_embeddings.projection.bias": (8,),
    "encoder.layer.0.attention.attention.query.weight": (8, 8), "classifier.weight": (3, 8),
}  # fmt: skip


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    path = tmp_path_factory.mktemp("slips") / "vit.safetensors"
    save_file({name: np.ones(shape, np.float32) for name, shape in VIT.items()}, path)
    return path


@pytest.mark.parametrize("scale", [1.6, 1.1, (1.1, 1.5), 1.3])
def test_tokens_that_do_not_fit_leave_the_image_to_be_resampled(vit, scale):
    plan = rk.plan_checkpoint(vit, scale)
    assert plan.resamples and not plan.changed
    assert any("more of them do not fit" in note and "not a whole number" in note for note in plan.warnings)


def test_tokens_that_fit_grow_as_before(vit):
    plan = rk.plan_checkpoint(vit, 1.75)
    assert not plan.resamples
    plan = rk.plan_checkpoint(vit, 2)
    assert [change.name for change in plan.changed] == ["embeddings.patch_embeddings.projection.weight"]


def test_the_note_on_shrinking_tells_patches_from_kernels(vit, file):
    [note] = [n for n in rk.plan_checkpoint(vit, 0.5, mode="supersample").warnings if "shrink" in n]
    assert note.startswith("patches shrink by the scale 0.5") and "3 taps" not in note and "absorb" not in note
    [note] = [n for n in named(file, 0.5, mode="supersample").warnings if "shrink" in n]
    assert note.startswith("kernels shrink by the scale 0.5, and one of 3 taps")


def test_a_dilated_layer_is_called_dilated_and_keeps_its_tensor():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=2, dilation=2))
    model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(2, 2))
    text = str(rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16), mode="supersample").rekernel_plan)
    assert "dilate, taps 4 apart" in text and "factored" not in text
    assert "1 of 6 tensors change, and the layers of 1 more, which keep their values; kept:" in text


def test_weights_and_images_beyond_memory_are_refused_by_their_sizes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 5, padding=2))
    plan = rkt.rescale(model, 2, torch.zeros(1, 3, 8, 8), mode="supersample").rekernel_plan
    new = sum(math.prod(change.new_shape) for change in plan.changed) * 4
    refuse_too_large(plan, model.state_dict(), memory=new)
    with pytest.raises(RekernelError, match=r"this machine has .* the largest is 1\.weight, 8x8x5x5 -> 8x8x9x9"):
        refuse_too_large(plan, model.state_dict(), memory=new - 1)
    refuse_too_large(plan, model.to("meta").state_dict(), memory=1)
    with pytest.raises(RekernelError, match=r"scale=64 makes an image of 65536x65536 pixels from one of 1024x1024"):
        rkt.rescale(nn.Conv2d(1, 1, 3, padding=1), size=65536, example_input=torch.zeros(1, 1, 1024, 1024))
