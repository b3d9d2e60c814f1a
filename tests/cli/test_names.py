"""The names and defaults of the library: each can be typed, is explained by the help, and reaches a plan."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import click
import numpy as np
import pytest
from safetensors.numpy import save_file

from rekernel.checkpoint.dtypes import FLOATS
from rekernel.planning.roles import NETWORK_MODES
from rekernel.planning.settings import Hints, PlanningOptions, Settings
from rekernel.resampling.arrays import ORDERS
from rekernel.resampling.methods import (
    ALIASES,
    ALL_METHODS,
    GAINS,
    KERNEL_METHODS,
    READING_FILTERS,
    TAPS_RULES,
    canonical_method,
)
from rekernel_cli import values
from rekernel_cli.commands.plan import plan
from rekernel_cli.options import Planning

OPTIONS = {param.name: param for param in plan.params if isinstance(param, click.Option)}
TYPED = {
    "scale": "1.5", "method": "linear", "taps": "7", "gain": "ratio", "a": "-0.75", "smoothness": "0.02",
    "reading_filter": "cubic",
}  # fmt: skip


@pytest.fixture
def planned(run, tmp_path):
    """Plan a file with a convolution and a linear layer that reads a 4x4 grid, with these options."""
    layers = {"conv.weight": np.ones((4, 4, 3, 3), np.float32), "fc.weight": np.ones((2, 64), np.float32)}
    save_file(layers, tmp_path / "a.safetensors")
    return lambda *words: run("plan", tmp_path / "a.safetensors", "--scale", "2", "--json", *words)


@pytest.mark.parametrize("spelling", ["fp16", "float16", "half", "torch.bfloat16", "bf16", "fp32", "F64", "double"])
def test_a_dtype_is_understood_as_people_spell_it(spelling):
    assert values.dtype(spelling) in FLOATS


@pytest.mark.parametrize("method", [*ALL_METHODS, *ALIASES])
def test_every_method_can_be_typed_and_planned(method, planned):
    done = planned("--method", method)
    kernel = canonical_method(method, ALL_METHODS) in KERNEL_METHODS
    assert (done.exit_code == 0) == kernel, done.output
    if kernel:
        assert json.loads(done.stdout)["options"]["method"] == canonical_method(method)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *(("gain", gain) for gain in GAINS),
        *(("taps", rule) for rule in TAPS_RULES),
        *(("order", order) for order in ORDERS),
        *(("mode", mode) for mode in NETWORK_MODES),
        *(("reading_filter", method) for method in READING_FILTERS),
    ],
)
def test_every_name_can_be_typed_and_is_explained(name, word, planned):
    option = OPTIONS[name]
    assert re.search(rf"\b{word}\b", option.help), f"{option.opts[0]} does not explain {word}"
    more = {"order": ["--linear-grid", "fc=4,4,4"], "gain": ["--method", "cubic"]}.get(name, [])
    done = planned(option.opts[0], f"*={word}" if option.multiple else word, *more)
    assert done.exit_code == 0, done.output
    wrong = planned(option.opts[0], "nosuch", *more)
    assert wrong.exit_code == 2 and word in wrong.stderr


@pytest.mark.parametrize("name", ["method", "gain", "a", "smoothness"])
def test_the_default_in_the_help_is_what_a_plan_does(name, planned):
    default = re.search(r"Default: ([\w.-]+?)[.;,]( |$)", OPTIONS[name].help)[1]

    def changes(*words):
        return json.loads(planned("--mode", "supersample", "--include", "conv*", *words).stdout)["changes"]

    more = {"a": ["--method", "cubic"], "smoothness": ["--method", "optimal"]}.get(name, [])
    assert changes(OPTIONS[name].opts[0], default, *more) == changes(*more)
    assert changes(OPTIONS[name].opts[0], TYPED[name], *more) != changes(*more)


@pytest.mark.parametrize("field", [field.name for field in fields(Settings)])
def test_every_setting_can_be_set_for_some_layers(field, planned):
    assert values.override(f"conv*:{field}={TYPED[field]}")[1].keys() == {field}
    assert field in OPTIONS["overrides"].help
    supersample = ("--mode", "supersample")  # the stride of 1 cannot absorb a scale of 1.5
    assert planned("--set", f"conv*:{field}={TYPED[field]}", *supersample).exit_code == 0


def test_every_argument_of_planning_has_an_option():
    given = {name: () if option.multiple else f"{name}!" for name, option in OPTIONS.items()}
    keywords = Planning((), {**given, "mode": (("*", "absorb"),)}).keywords()
    assert keywords["mode"] == "absorb" and keywords["hints"].mode == {}
    assert keywords.keys() == PlanningOptions.__annotations__.keys()
    assert OPTIONS.keys() >= {field.name for field in fields(Hints)}
    for field in fields(Hints):
        hints = Planning((), {**given, field.name: (("layer", "value"),)}).keywords()["hints"]
        assert getattr(hints, field.name) == {"layer": "value"}
