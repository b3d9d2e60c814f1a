"""Plans and a recipe that 0.1.0 wrote: what it said in options and reasons is read into the fields that say it now.

`files-0.1.0` holds the texts, as the code of 0.1.0 (commit 566b4cc) wrote them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rekernel import Plan, RekernelError
from rekernel.plan.recipe import Recipe

FILES = Path(__file__).parent / "files-0.1.0"
FIELDS = ("origin", "scale", "size", "form")


def stored(name):
    return (FILES / name).read_text(encoding="utf-8")


def facts(plan):
    return tuple(getattr(plan, field) for field in FIELDS), {c.name: c.mode for c in plan.changes if c.mode}


@pytest.mark.parametrize(
    ("name", "fields", "modes"),
    [
        ("names", ("names", (2.0, 1.5), (), ""), {"conv1.weight": "absorb", "conv2.weight": "supersample"}),
        (
            "trace",
            ("trace", (2.0, 2.0), (8, 8), "dense"),
            {"a.weight": "supersample", "b.weight": "supersample", "fc.weight": "absorb"},
        ),
        ("onnx", ("onnx", (2.0, 1.5), (), ""), {"w": "supersample"}),
    ],
)
def test_a_plan_of_0_1_0_says_what_it_said_in_options_and_reasons(name, fields, modes):
    document = json.loads(stored(f"{name}.json"))
    assert not set(document) & set(FIELDS)
    plan = Plan.from_json(json.dumps(document))
    assert facts(plan) == (fields, modes)
    assert plan.options == document["options"]
    again = json.loads(plan.to_json())
    assert again["origin"] == fields[0] and Plan.from_json(json.dumps(again)) == plan


def test_a_recipe_of_0_1_0_says_so_too():
    assert facts(Recipe.from_json(stored("recipe.json")).plan) == (
        ("names", 2.0, (), ""),
        {"conv1.weight": "absorb", "conv2.weight": "supersample"},
    )


def test_a_new_plan_is_not_read_from_its_options_and_reasons():
    document = json.loads(Plan.from_json(stored("trace.json")).to_json())
    del document["scale"], document["size"], document["form"]
    for change in document["changes"]:
        change.pop("mode", None)
    assert facts(Plan.from_json(json.dumps({**document, "origin": "names"}))) == (("names", 1.0, (), ""), {})


@pytest.mark.parametrize(("option", "value"), [("scale", "2"), ("scale", [0]), ("size", [-8]), ("form", "liquid")])
def test_options_of_0_1_0_are_checked_as_the_fields_are(option, value):
    document = json.loads(stored("trace.json"))
    document["options"][option] = value
    with pytest.raises(RekernelError, match=f"^plan: {option}: "):
        Plan.from_json(json.dumps(document))


def test_an_onnx_plan_of_0_1_0_is_carried_out(tmp_path):
    onnx = pytest.importorskip("onnx")
    import numpy as np

    from rekernel import convert

    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])],
        "one convolution",
        [onnx.helper.make_tensor_value_info("x", kind, (1, 1, 8, 8))],
        [onnx.helper.make_tensor_value_info("y", kind, (1, 2, 8, 8))],
        [onnx.numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "a.onnx")
    convert(tmp_path / "a.onnx", tmp_path / "b.onnx", plan=Plan.from_json(stored("onnx.json")))
    convert(tmp_path / "a.onnx", tmp_path / "c.onnx", scale=(2, 1.5), method="cubic")
    read = [onnx.load(tmp_path / f"{name}.onnx").graph for name in "bc"]
    assert read[0] == read[1] and [d.dim_value for d in read[0].input[0].type.tensor_type.shape.dim] == [1, 1, 16, 12]
