"""Plans as text: JSON there and back, every broken plan refused with one line, a table that names cannot steer."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from rekernel import AxisGeometry, AxisOperator, LayerChange, Plan, RekernelError, plan_checkpoint
from rekernel.plan.changes import FORMS, MODULE_KINDS, ModuleChange
from rekernel.resampling.methods import GAINS, KEYS_A, READING_FILTERS, SMOOTHNESS
from rekernel.resampling.operators import kernel_taps

SUPERSAMPLE = {"mode": "supersample", "method": "optimal"}
HOSTILE = ("a\x1b[31mred\nline.weight", "b\u202eidi.weight", "[red]c[/red].weight", "\u200b\x00.weight", "\\x1b.weight")

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sizes = st.integers(1, 8)


@st.composite
def convolutions(draw):
    """A change of a convolution that could be carried out."""
    kernel = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    shape = (draw(sizes), draw(sizes), *kernel)
    operators, before, after = [], [], []
    for i, k in enumerate(kernel):
        scale = draw(st.floats(1, 4))
        method = draw(st.sampled_from(["nearest", "linear", "cubic", "lanczos3", "area", "optimal"]))
        gain, phase = draw(st.sampled_from(GAINS)), draw(st.floats(-0.5, 0.5))
        new = kernel_taps(k, scale, method, None, phase)
        operators.append(AxisOperator(2 + i, k, new, "kernel", scale, method, gain, phase, a=draw(st.floats(-1, 0))))
        before.append(AxisGeometry(k, draw(sizes), (0, k // 2)))
        after.append(AxisGeometry(new, draw(sizes), (-1, new // 2), draw(sizes)))
    new_shape = (*shape[:2], *(o.new for o in operators))
    return LayerChange(
        draw(names), draw(st.sampled_from(["F16", "F32", "BF16"])), shape, new_shape, "conv", draw(names), shape,
        tuple(operators), geometry=tuple(before), new_geometry=tuple(after),
        mode=draw(st.sampled_from(["", "supersample", "absorb"])),
    )  # fmt: skip


@st.composite
def kept(draw):
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    return LayerChange.unchanged(draw(names), "I64", shape, draw(names))


@st.composite
def positions(draw):
    side, new, width, prefix = draw(sizes), draw(sizes), draw(sizes), draw(st.integers(0, 5))
    operators = tuple(AxisOperator(1 + i, side, new, "grid", new / side, "cubic", "none") for i in (0, 1))
    return LayerChange(
        draw(names), "F32", (1, prefix + side**2, width), (1, prefix + new**2, width), "values", draw(names),
        (1, side, side, width), operators, prefix, 1,
    )  # fmt: skip


@st.composite
def modules(draw):
    """A change of a layer without a tensor."""
    axes = st.builds(AxisGeometry, sizes, sizes, st.tuples(st.integers(-4, 4), st.integers(-4, 4)), sizes)
    before, after = (tuple(draw(st.lists(axes, max_size=3))) for _ in range(2))
    kind = draw(st.sampled_from(MODULE_KINDS))
    method = draw(st.sampled_from(READING_FILTERS)) if kind == "resample" else ""
    return ModuleChange(draw(names), kind, draw(names), before, after, method)


finite = st.floats(allow_nan=False, allow_infinity=False)
options = st.dictionaries(names, st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | names)
scales = st.integers(1, 8) | st.floats(0.01, 1000)
plans = st.builds(
    Plan,
    st.lists(convolutions() | kept() | positions(), max_size=5, unique_by=lambda c: c.name).map(tuple),
    names,
    options,
    st.lists(names, max_size=3).map(tuple),
    st.lists(modules(), max_size=3).map(tuple),
    origin=st.sampled_from(["names", "trace", "onnx"]),
    scale=scales | st.lists(scales, min_size=1, max_size=3).map(tuple),
    size=st.lists(sizes, max_size=3).map(tuple),
    form=st.sampled_from(["", *FORMS]),
)


@given(plans)
@settings(deadline=None)
def test_json_there_and_back_is_the_same_plan_and_the_same_bytes(plan):
    for indent in (None, 2):
        text = plan.to_json(indent=indent)
        again = Plan.from_json(text)
        assert again == plan
        assert again.to_json(indent=indent) == text
    short = Plan.from_json(plan.to_json(kept=False))
    assert short.changes == plan.changed


@given(plans)
@settings(deadline=None)
def test_what_a_plan_prints_is_harmless_whatever_it_holds(plan):
    lines = str(plan).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) <= len(plan.changes) + len(plan.warnings) + 20


def operator(**changed):
    return AxisOperator(**({"axis": 2, "old": 3, "new": 5, "geometry": "kernel", "scale": 2.0} | changed),
                        method="optimal", gain="dc")  # fmt: skip


CHANGE = LayerChange(
    "conv.weight", "F32", (8, 4, 3, 3), (8, 4, 5, 5), "conv", "convolution", (8, 4, 3, 3),
    (operator(), operator(axis=3)), geometry=(AxisGeometry(3, 1, (1, 1)),) * 2,
    new_geometry=(AxisGeometry(5, 1, (2, 2)),) * 2,
)  # fmt: skip
OFF = [vars(operator()) | {"method": "dilate", "phase": 0.25}, vars(operator(axis=3))]
KEPT = LayerChange("conv.bias", "F32", (8,), (8,), "keep", "bias")
GOOD = Plan((CHANGE, KEPT), "", {"scale": 2}, (), scale=2)


def test_the_text_of_a_plan_never_changes():
    document = json.loads(GOOD.to_json())
    assert sorted(document) == ["changes", "family", "options", "origin", "scale", "schema", "version", "warnings"]
    assert (document["schema"], document["version"]) == ("rekernel.plan", 1)
    assert (document["origin"], document["scale"]) == ("names", 2.0)
    assert document["changes"][1] == {
        "dtype": "F32", "kind": "keep", "name": "conv.bias", "new_shape": [8], "reason": "bias", "shape": [8],
    }  # fmt: skip
    assert document["changes"][0]["operators"][0] == {
        "axis": 2, "old": 3, "new": 5, "geometry": "kernel", "scale": 2.0, "method": "optimal", "gain": "dc",
        "phase": 0.0, "dilation": 1, "a": KEYS_A, "smoothness": SMOOTHNESS,
    }  # fmt: skip
    assert document["changes"][0]["new_geometry"][0] == {
        "kernel": 5, "stride": 1, "padding": [2, 2], "dilation": 1,
    }  # fmt: skip


def broken(path, value):
    """The text of `GOOD` with one field replaced, or removed where `value` is `...`."""
    document = copy.deepcopy(json.loads(GOOD.to_json()))
    *parents, last = path
    place = document
    for step in parents:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


FIRST, OPERATOR = ("changes", 0), ("changes", 0, "operators", 0)
FAULTS = {
    "schema missing": (("schema",), ..., "not a rekernel plan"),
    "another schema": (("schema",), "x", "not a rekernel plan"),
    "version missing": (("version",), ..., "version None is not 1.*plan again"),
    "version 2": (("version",), 2, "version 2 is not 1.*plan again"),
    "version text": (("version",), "1", "version '1' is not 1"),
    "an unknown field": (("extra",), 1, "unknown field extra"),
    "changes missing": (("changes",), ..., "field 'changes' is missing"),
    "changes null": (("changes",), None, "changes is not a list"),
    "changes an object": (("changes",), {"a": 1}, "changes is not a list"),
    "family missing": (("family",), ..., "field 'family' is missing"),
    "family a number": (("family",), 1, "family and checked must be text"),
    "options a list": (("options",), [], "options an object"),
    "warnings of numbers": (("warnings",), [1], "a note is neither text"),
    "an unknown origin": (("origin",), "magic\x1b", "origin: .*magic.* is not one of names, trace, onnx"),
    "an origin that is null": (("origin",), None, "origin: None is not one of"),
    "a scale of 0": (("scale",), 0, "scale: 0 is not a number above 0"),
    "a scale that is not finite": (("scale",), [2.0, float("inf")], "Infinity is not JSON"),
    "a scale that is not a number": (("scale",), float("nan"), "NaN is not JSON"),
    "a scale beyond all sizes": (("scale",), 1e300, "scale: 1e\\+300 is not a number above 0 and up to"),
    "a scale that is text": (("scale",), "2", "scale: 2 is not a number"),
    "a scale that is true": (("scale",), True, "scale: True is not a number"),
    "a scale without a number": (("scale",), [], "scale: .* is not a number"),
    "a size of 0": (("size",), [8, 0], "size: .* is not a list of whole numbers above 0"),
    "a size of floats": (("size",), [8.0, 8.0], "size: .* is not a list of whole numbers"),
    "a size that is a number": (("size",), 8, "size: 8 is not a list of whole numbers"),
    "an unknown form": (("form",), "liquid", "form: liquid is not one of plain, dense, factored, auto"),
    "a form that is a list": (("form",), ["dense"], "form: .* is not one of"),
    "an unknown mode": ((*FIRST, "mode"), "absorbs", "conv.weight: mode absorbs is not one of supersample, absorb"),
    "a mode that is a number": ((*FIRST, "mode"), 1, "conv.weight: mode is not text"),
    "modules a number": (("modules",), 1, "modules is not a list"),
    "an entry that is text": (FIRST, "conv.weight", "not an object with a name"),
    "a name missing": ((*FIRST, "name"), ..., "not an object with a name"),
    "a name that is a number": ((*FIRST, "name"), 1, "not an object with a name"),
    "the same name twice": ((*FIRST, "name"), "conv.bias", "conv.bias is listed twice"),
    "an unknown field in a change": ((*FIRST, "color"), 1, "conv.weight: unknown field color"),
    "dtype missing": ((*FIRST, "dtype"), ..., "conv.weight: field 'dtype' is missing"),
    "dtype a number": ((*FIRST, "dtype"), 7, "conv.weight: dtype is not text"),
    "shape missing": ((*FIRST, "shape"), ..., "conv.weight: field 'shape' is missing"),
    "new_shape missing": ((*FIRST, "new_shape"), ..., "field 'new_shape' is missing"),
    "kind missing": ((*FIRST, "kind"), ..., "field 'kind' is missing"),
    "reason missing": ((*FIRST, "reason"), ..., "field 'reason' is missing"),
    "an unknown kind": ((*FIRST, "kind"), "magic", "kind 'magic' is not one of"),
    "a kept tensor with operators": ((*FIRST, "kind"), "keep", "contradicts itself"),
    "a change without operators": ((*FIRST, "operators"), [], "contradicts itself"),
    "a kept tensor of a new shape": (("changes", 1, "new_shape"), [9], "without an operator"),
    "a negative size": ((*FIRST, "shape"), [-8, 4, 3, 3], "is not a shape"),
    "a size that is a float": ((*FIRST, "shape"), [8.0, 4, 3, 3], "is not a shape"),
    "a size that is true": ((*FIRST, "shape"), [True, 4, 3, 3], "is not a shape"),
    "a size of 2**60": ((*FIRST, "new_shape"), [2**60, 4, 5, 5], "is not a shape"),
    "a shape that is text": ((*FIRST, "shape"), "8433", "shape is not a list"),
    "a view of other cells": ((*FIRST, "view"), [8, 4, 3, 4], "view .* does not have the 288 cells"),
    "a new shape of other cells": ((*FIRST, "new_shape"), [8, 4, 5, 6], "the operators give 800 cells"),
    "a prefix beyond its axis": ((*FIRST, "prefix"), 9, "prefix 9 does not fit"),
    "a prefix that is text": ((*FIRST, "prefix"), "1", "conv.weight: "),
    "a grid axis beyond the shape": ((*FIRST, "grid_axis"), 4, "does not fit axis 4"),
    "an axis beyond the view": ((*OPERATOR, "axis"), 4, "does not fit axis 4"),
    "a negative axis": ((*OPERATOR, "axis"), -1, "does not fit axis -1"),
    "two operators on one axis": ((*OPERATOR, "axis"), 3, "two operators on one axis"),
    "an old size that is not there": ((*OPERATOR, "old"), 4, "4->5 does not fit axis 2"),
    "no new taps": ((*OPERATOR, "new"), 0, "3->0.* is impossible"),
    "2**30 new taps": ((*OPERATOR, "new"), 2**30, "matrix of more than"),
    "new taps a float": ((*OPERATOR, "new"), 5.0, "must be whole numbers"),
    "dilation 0": ((*OPERATOR, "dilation"), 0, "is impossible"),
    "scale 1e300": ((*OPERATOR, "scale"), 1e300, "scale of 1e\\+300 is above"),
    "dilation 2**40": ((*OPERATOR, "dilation"), 2**40, "matrix of more than"),
    "scale 0": ((*OPERATOR, "scale"), 0, "scale of 0 is not a finite number above 0"),
    "scale text": ((*OPERATOR, "scale"), "2", "scale of '2' is not a finite number"),
    "phase not finite": ((*OPERATOR, "phase"), float("nan"), "NaN is not JSON"),
    "an unknown method": ((*OPERATOR, "method"), "magic", "conv.weight: .*magic"),
    "a grid's method on a kernel": ((*OPERATOR, "method"), "pinv-linear", "conv.weight: .*pinv-linear"),
    "a dilation between the pixels": ((*FIRST, "operators"), OFF, "conv.weight: .*dilation needs whole positions"),
    "an unknown gain": ((*OPERATOR, "gain"), "x", "gain 'x' is unknown"),
    "an unknown geometry": ((*OPERATOR, "geometry"), "x", "geometry 'x'"),
    "an unknown field in an operator": ((*OPERATOR, "x\x1b[2J"), 1, "conv.weight: .*unexpected keyword"),
    "an operator that is a list": (OPERATOR, [1], "conv.weight: "),
    "an operator without a scale": ((*OPERATOR, "scale"), ..., "conv.weight: .*'scale'"),
    "padding of three": ((*FIRST, "geometry", 0, "padding"), [1, 1, 1], "conv.weight: "),
    "a stride that is text": ((*FIRST, "new_geometry", 0, "stride"), "1", "whole numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_broken_plan_is_refused_with_one_line(fault):
    path, value, words = FAULTS[fault]
    with pytest.raises(RekernelError, match=words) as caught:
        Plan.from_json(broken(path, value))
    message = str(caught.value)
    assert message.startswith("plan: ") and message.isprintable() and len(message) < 500


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"x"', "[" * 100_000, '{"schema": ' + "9" * 5000 + "}", "\x00"],
    ids=lambda text: repr(text[:9]),
)
def test_what_is_no_plan_at_all_is_refused_with_one_line(text):
    with pytest.raises(RekernelError, match=r"^plan: (not|the text is|a number of 5000 digits)") as caught:
        Plan.from_json(text)
    assert str(caught.value).isprintable()


def test_a_hostile_unknown_field_or_kind_cannot_steer_a_terminal():
    for path in (("x\x1b[2J\n",), (*FIRST, "x\x1b[2J\n"), (*OPERATOR, "x\x1b[2J\n"), (*FIRST, "kind")):
        with pytest.raises(RekernelError) as caught:
            Plan.from_json(broken(path, "\x1b[2J\n" * 1000))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 9000


FIELDS = [
    *((field,) for field in (*json.loads(GOOD.to_json()), "size", "form")),
    *((*FIRST, field) for field in ("shape", "view", "operators", "geometry", "prefix", "grid_axis", "dtype", "kind")),
    (*FIRST, "mode"),
    *((*OPERATOR, field) for field in ("axis", "old", "new", "scale", "method", "gain", "phase", "a", "dilation")),
]


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_any_value_in_any_field_is_refused_or_read_but_never_a_crash(value):
    for path in FIELDS:
        try:
            plan = Plan.from_json(broken(path, value))
        except RekernelError:
            continue
        assert Plan.from_json(plan.to_json()) == plan


@pytest.fixture
def checkpoint(tmp_path):
    def write(shapes, dtype=np.float32, metadata=None):
        arrays = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
        safetensors.numpy.save_file(arrays, tmp_path / "in.safetensors", metadata)
        return tmp_path / "in.safetensors"

    return write


def test_a_printed_plan_is_a_table_with_a_summary_of_reasons(checkpoint):
    shapes = {"a.weight": (8, 4, 3, 3), "a.bias": (8,), "b.bias": (8,), "point.weight": (8, 8, 1, 1)}
    lines = str(plan_checkpoint(checkpoint(shapes), 2, gain="ratio", **SUPERSAMPLE)).splitlines()
    assert lines[0].split("  ")[0] == "tensor"
    assert [word for word in ("old shape", "new shape", "method and taps", "gain", "gain error")
            if word not in lines[0]] == []  # fmt: skip
    row = next(line for line in lines if line.startswith("a.weight"))
    assert "8x4x3x3" in row and "8x4x5x5" in row and "optimal 3->5" in row and "ratio" in row
    assert "1 of 4 tensors change; kept:" in lines
    assert "      2  bias, norm or scalar: no spatial axis" in lines
    assert "      1  1x1 convolution: pointwise" in lines


def test_names_from_a_file_are_inert_in_table_notes_and_json(checkpoint):
    shapes = dict.fromkeys(HOSTILE, (4, 4, 3, 3)) | {"x\x1b[2J.weight": (8, 3, 4, 4), "\n.weight": (4, 4, 5)}
    plan = plan_checkpoint(checkpoint(shapes), 2, **SUPERSAMPLE)
    assert len(plan.changed) == len(HOSTILE) and len(plan.warnings) == 3
    assert all(line.isprintable() for line in str(plan).split("\n"))
    again = Plan.from_json(plan.to_json())
    assert {c.name for c in again.changes} == set(shapes) and str(again) == str(plan)
    assert r"a\x1b[31mred\nline.weight" in str(plan) and r"\\x1b.weight" in str(plan)


def test_a_plan_that_changes_nothing_says_so(checkpoint):
    assert str(plan_checkpoint(checkpoint({"a.bias": (3,)}), 2)).startswith("nothing changes")


def test_the_same_file_gives_the_same_plan_byte_for_byte(checkpoint):
    path = checkpoint({f"b.{i}.weight": (4, 4, 3, 3) for i in range(20)})
    assert plan_checkpoint(path, 1.5).to_json() == plan_checkpoint(path, 1.5).to_json()


FACTORED = {
    "name": "conv.weight", "dtype": "F32", "shape": [8, 4, 3, 3], "new_shape": [8, 4, 3, 3], "kind": "conv",
    "reason": "factored", "view": [8, 4, 3, 3],
    "factors": [vars(operator()) | {"method": "optimal-filter", "new": 13},
                vars(operator(axis=3)) | {"method": "optimal-filter", "new": 13}],
}  # fmt: skip
MISSHAPEN = {
    "axis beyond the view": ({"axis": 99}, "does not fit axis 99"),
    "negative axis": ({"axis": -1}, "does not fit axis -1"),
    "another size": ({"old": 5}, "5->13 does not fit axis 3"),
    "no taps": ({"new": 0}, "is impossible"),
    "a trillion taps": ({"new": 10**12}, "matrix of more than"),
    "unknown method": ({"method": "magic"}, "method='magic' is not one of"),
    "method a list": ({"method": []}, "must be text"),
    "unknown gain": ({"gain": "huge"}, "gain 'huge' is unknown"),
    "unknown geometry": ({"geometry": "nonsense"}, "geometry 'nonsense' or"),
    "a grid": ({"geometry": "grid", "method": "cubic"}, "a factor must be a kernel, not a grid"),
    "infinite scale": ({"scale": float("inf")}, "finite numbers|Infinity"),
    "a scale that no float holds": ({"scale": 10**19}, "scale of 1.*0 is not a finite number"),
    "scale 0": ({"scale": 0}, "scale of 0 is not a finite"),
    "scale of thousands": ({"scale": 5000.0}, "is above 1024"),
    "phase text": ({"phase": "left"}, "phase of 'left' is not a number"),
    "a null": ({"a": None}, "a of None is not a number"),
    "smoothness a list": ({"smoothness": [1]}, "smoothness of .* is not at least 0"),
    "dilation a fraction": ({"dilation": 1.5}, "whole numbers"),
    "an unknown field": ({"colour": 1}, "colour"),
    "two on one axis": ({"axis": 2}, "two operators on one axis"),
}


def factored(**changed):
    document = json.loads(GOOD.to_json())
    document["changes"] = [copy.deepcopy(FACTORED) | changed]
    return document


def test_a_factored_change_goes_to_json_and_back():
    plan = Plan.from_json(json.dumps(factored()))
    assert len(plan.changed[0].factors) == 2
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("fault", MISSHAPEN)
def test_a_factor_that_could_not_be_carried_out_is_refused_by_its_place(fault):
    document, (changed, message) = factored(), MISSHAPEN[fault]
    document["changes"][0]["factors"][1] |= changed
    with pytest.raises(RekernelError, match=message) as said:
        Plan.from_json(json.dumps(document))
    assert "conv.weight: factors" in str(said.value) or "Infinity" in str(said.value)


def test_an_operator_is_refused_by_its_place():
    text = broken((*OPERATOR, "method"), "magic")
    with pytest.raises(RekernelError, match=r"conv\.weight: operators\[0\]: method='magic' is not one of"):
        Plan.from_json(text)


def test_factors_leave_the_tensor_as_it_is_and_stand_alone():
    with pytest.raises(RekernelError, match="without an operator"):
        Plan.from_json(json.dumps(factored(new_shape=[8, 4, 5, 5])))
    with pytest.raises(RekernelError, match="does not have the 288 cells"):
        Plan.from_json(json.dumps(factored(view=[8, 4])))
    with pytest.raises(RekernelError, match="one or the other"):
        Plan.from_json(json.dumps(factored(operators=FACTORED["factors"])))
