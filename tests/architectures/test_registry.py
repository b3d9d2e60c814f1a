"""Families of one's own beside those of rekernel."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import rekernel as rk
from rekernel.architectures.base import LayerFacts
from rekernel.architectures.registry import families, recognise, register, restored

SHAPES = {
    "detector.stem.weight": (8, 3, 7, 7),
    "detector.next.weight": (8, 8, 3, 3),
    "fc1.weight": (4, 4),
    "fc2.weight": (4, 4),
}


class Detector:
    """Its stem has stride 4."""

    default = "all"

    def __init__(self, name="my detector"):
        self.name = name

    def recognises(self, shapes):
        return "detector.stem.weight" in shapes

    def facts(self, name, shapes):
        return LayerFacts(stride=4, reads_image=True) if name == "detector.stem.weight" else None

    def gives_image(self, shapes):
        return "detector.boxes.weight" in shapes

    def presets(self, shapes):
        return {"all": ("*",), "stem": ("detector.stem",)}

    def notes(self, shapes):
        return ("its head is not known",)


@pytest.fixture(autouse=True)
def _restored():
    with restored():
        yield


def test_a_family_of_ones_own_tells_strides_presets_and_notes(tmp_path):
    path = tmp_path / "in.safetensors"
    save_file({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, path)
    assert rk.inspect(path).family != "my detector"
    register(Detector())
    info, plan = rk.inspect(path), rk.plan_checkpoint(path, scale=2, preset="stem", mode="supersample")
    assert (info.family, info.presets) == ("my detector", ("all", "stem"))
    assert plan.family == "my detector" and "its head is not known" in plan.warnings
    [stem] = plan.changed
    assert stem.geometry[0].stride == stem.new_geometry[0].stride == 4


def test_a_family_of_ones_own_tells_which_layer_reads_the_image_and_whether_one_is_given_back(tmp_path):
    register(Detector())
    for head, strides in (("detector.head.weight", {"stem": 6}), ("detector.boxes.weight", {"stem": 4, "next": 1})):
        path = tmp_path / f"{head}.safetensors"
        save_file({name: np.ones(shape, np.float32) for name, shape in (SHAPES | {head: (4, 8, 1, 1)}).items()}, path)
        plan = rk.plan_checkpoint(path, scale=1.5)
        assert {c.name.split(".")[1]: c.new_geometry[0].stride for c in plan.changed} == strides


def test_the_one_that_is_asked_first_is_taken():
    register(Detector("last"))
    assert families()[-1].name == "last" and recognise(SHAPES).name == "last"
    register(Detector("first"), before=families()[0].name)
    assert families()[0].name == "first" and recognise(SHAPES).name == "first"


class Half:
    name, default = "half", "all"


@pytest.mark.parametrize(
    ("family", "before", "said"),
    [
        (Detector("ResNet"), None, "a family is called ResNet already"),
        (Detector(""), None, "Detector is not a family: it lacks name"),
        (Half(), None, "Half is not a family: it lacks recognises, facts, gives_image, presets, notes"),
        (Detector(), "VGG", "before='VGG' is not a family's name; choose from diffusers UNet"),
    ],
)
def test_a_refusal_leaves_the_families_as_they_were(family, before, said):
    known = families()
    with pytest.raises(rk.RekernelError, match=said):
        register(family, before)
    assert families() is known
