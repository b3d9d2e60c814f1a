"""Layers without a tensor in a plan: their JSON, what is refused, and an image resampled in front of a model."""

from __future__ import annotations

import json

import pytest

from rekernel import AxisGeometry, LayerChange, Plan, RekernelError
from rekernel.plan.changes import ModuleChange

KEPT = LayerChange("conv.bias", "F32", (8,), (8,), "keep", "bias")
POOL = ModuleChange("pool", "max-pool", "pooling", (AxisGeometry(2, 2, (0, 0)),), (AxisGeometry(2, 4, (0, 0), 2),))
FRONT = ModuleChange("", "resample", "stride 1", (), (), "area")
ENTRY = {"name": "", "kind": "resample", "reason": "stride 1", "geometry": [], "new_geometry": [], "method": "area"}


def test_a_layer_without_a_tensor_has_a_method_only_where_the_image_is_resampled():
    document = json.loads(Plan((KEPT,), modules=(POOL, FRONT)).to_json())
    assert [entry.get("method") for entry in document["modules"]] == [None, "area"]
    assert document["modules"][1] == ENTRY
    assert Plan.from_json(json.dumps(document)).modules == (POOL, FRONT)


def test_zeros_in_front_of_a_pooling_are_kept_where_there_are_some():
    padded = ModuleChange("pool", "max-pool", "pooling", POOL.geometry, POOL.new_geometry, by_hand=((0, 1),))
    document = json.loads(Plan((KEPT,), modules=(POOL, padded)).to_json())
    assert [entry.get("by_hand") for entry in document["modules"]] == [None, [[0, 1]]]
    assert Plan.from_json(json.dumps(document)).modules == (POOL, padded)


def test_a_plan_that_only_resamples_the_image_is_not_empty_and_says_that_no_tensor_changes():
    plan = Plan((KEPT,), modules=(FRONT,))
    assert not plan.empty and not plan.changed
    assert str(plan).startswith("no tensor changes")
    assert Plan((KEPT,)).empty and str(Plan((KEPT,))).startswith("nothing changes")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("pool", "not an object with a name, a kind and a reason"),
        (ENTRY | {"kind": "blur\x1b"}, "kind .*blur.* is not one of max-pool"),
        (ENTRY | {"method": "x\x1b"}, "method .*x.* is not one of optimal"),
        (ENTRY | {"method": ["area"]}, "method .*area.* is not one of"),
        (ENTRY | {"method": "dilate"}, "'dilate' is not one of"),
        (ENTRY | {"by_hand": 3}, "by_hand is not a list"),
        (ENTRY | {"by_hand": [[1, "x\x1b"]]}, "is not a padding"),
        (ENTRY | {"colour": 1}, "unexpected keyword"),
        ({"name": "", "kind": "resample", "reason": ""}, "'geometry'"),
    ],
)
def test_a_broken_entry_is_refused_with_one_line(entry, words):
    document = json.loads(Plan((KEPT,), modules=(FRONT,)).to_json())
    document["modules"] = [entry]
    with pytest.raises(RekernelError, match=words) as caught:
        Plan.from_json(json.dumps(document))
    assert str(caught.value).startswith("plan: ") and str(caught.value).isprintable()
