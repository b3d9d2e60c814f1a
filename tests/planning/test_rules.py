"""The layer rules, and that a layer becomes the same however it was found: by name, by trace or in an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import rekernel as rk
from rekernel.plan.changes import AxisGeometry, LayerChange
from rekernel.planning import rules
from rekernel.planning.layers import Cells, ConvAxis, Weight, grid_cells
from rekernel.planning.pooling import pooling
from rekernel.planning.roles import FLAT, Network, Role, checked_mode, gives_image, network_mode, role_of, settings_of
from rekernel.planning.settings import Settings

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402


@dataclass(frozen=True)
class Case:
    """One layer, as each planner is told about it; by default it supersamples by 'optimal'."""

    label: str
    layer: nn.Module
    size: tuple[int, ...]
    scale: Any
    hints: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    layer_mode: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """The keyword arguments that all planners share. The mode of a single layer excludes that of the network."""
        network = {} if self.layer_mode else {"mode": "supersample"}
        return {**network, "method": "optimal", **self.options}

    def told(self) -> rk.Hints:
        """The hints for names and graphs."""
        return rk.Hints(**({"mode": {"0.weight": self.layer_mode}} if self.layer_mode else {}))


def conv(k: int, stride: int = 1, padding: int = 0, *, count: int = 2, **more: Any) -> nn.Module:
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[count]
    return kind(2, 4, k, stride, padding, **more)


def told(stride: int, padding: int, **more: Any) -> dict[str, Any]:
    return {"stride": {"0": stride}, "padding": {"0": padding}, **more}


CONVS = [
    Case("same", conv(3, 1, 1), (12, 12), 2, told(1, 1)),
    Case("strided, half a pixel of phase", conv(3, 2, 1), (12, 12), 2, told(2, 1)),
    Case("strided, even kernel", conv(4, 2, 1), (12, 12), 2, told(2, 1)),
    Case("no padding", conv(5, 1, 0), (12, 12), 2, told(1, 0)),
    Case("1.5 times", conv(3, 1, 1), (12, 12), 1.5, told(1, 1)),
    Case("half", conv(5, 1, 2), (12, 12), 0.5, told(1, 2)),
    Case("per axis", conv(3, 1, 1), (12, 12), (2, 3), told(1, 1)),
    Case("one axis alone", conv(3, 1, 1), (12, 12), (1, 2), told(1, 1)),
    Case("dilated", conv(3, 1, 2, dilation=2), (12, 12), 2, told(1, 2, dilation={"0": 2})),
    Case("grouped", conv(3, 1, 1, groups=2), (12, 12), 2, told(1, 1)),
    Case("1-D", conv(3, 2, 1, count=1), (16,), 2, told(2, 1, layout={"0": "OIW"})),
    Case("3-D", conv(3, 1, 1, count=3), (6, 6, 6), 2, told(1, 1)),
    Case("one layer absorbs", conv(3, 2, 1), (12, 12), 2, told(2, 1), layer_mode="absorb"),
    Case("patch", conv(4, 4, 0), (12, 12), 2, told(4, 0), layer_mode="absorb"),
    Case("the network absorbs", conv(3, 2, 1), (12, 12), 2, told(2, 1), {"mode": "absorb", "method": "auto"}),
    Case("the patch of the network", conv(4, 4, 0), (12, 12), 2, told(4, 0), {"mode": "absorb", "method": "auto"}),
    Case("half a patch", conv(4, 4, 0), (12, 12), 0.5, told(4, 0), {"mode": "absorb", "method": "auto"}),
    Case("1.5 times, absorbed", conv(3, 2, 1), (12, 12), 1.5, told(2, 1), {"mode": "absorb", "method": "auto"}),
    Case("defaults", conv(3, 1, 1), (12, 12), 2, told(1, 1), {"mode": "auto", "method": "auto"}),
    Case("a reading filter", conv(3, 1, 1), (12, 12), 2, told(1, 1), {"method": "auto", "reading_filter": "cubic"}),
    *(
        Case(f"method {method}", conv(3, 2, 1), (12, 12), 2, told(2, 1), {"method": method})
        for method in ("dilate", "nearest", "bilinear", "cubic", "lanczos3", "area", "optimal", "optimal-filter")
    ),
    Case("taps", conv(3, 1, 1), (12, 12), 2, told(1, 1), {"method": "cubic", "taps": 7}),
    Case("gain", conv(3, 1, 1), (12, 12), 2, told(1, 1), {"method": "linear", "gain": "ratio", "taps": "full"}),
    Case("a", conv(3, 1, 1), (12, 12), 2, told(1, 1), {"method": "cubic", "a": -0.75}),
]

METHODS_OF_GRIDS = ("optimal", "dilate", "nearest", "bilinear", "bicubic", "area", "pinv-linear")


def by_name(case: Case, model: nn.Module, path: Any) -> rk.Plan:
    """A plan from names and shapes alone."""
    file = path / "model.safetensors"
    safetensors.numpy.save_file({k: v.numpy() for k, v in model.state_dict().items()}, file)
    hints = replace(case.told(), **case.hints)
    return rk.plan_checkpoint(file, case.scale, hints=hints, **case.asked)


def by_trace(case: Case, model: nn.Module, shape: tuple[int, ...], form: str = "plain") -> rk.Plan:
    """A plan from running the model."""
    modes = {"0.weight": case.layer_mode} if case.layer_mode else None
    return rkt.rescale(model, case.scale, torch.zeros(shape), modes=modes, form=form, **case.asked).rekernel_plan


def by_graph(case: Case, model: nn.Module, shape: tuple[int, ...], path: Any) -> rk.Plan:
    """A plan from an ONNX graph."""
    file = path / "model.onnx"
    torch.onnx.export(model, (torch.zeros(shape),), file, dynamo=False, input_names=["x"], output_names=["y"])
    return rk.plan_source(file, scale=case.scale, hints=case.told(), **case.asked)[""]


def what_is_done(plan: rk.Plan, name: str) -> dict[str, Any]:
    """The part of a change that decides what is computed."""
    change = next(change for change in plan.changes if change.name == name)
    return {
        "kind": change.kind, "new_shape": change.new_shape, "view": change.view, "operators": change.operators,
        "factors": change.factors,
        "geometry": change.geometry, "new_geometry": change.new_geometry, "mode": change.mode,
    }  # fmt: skip


@pytest.mark.parametrize("case", CONVS, ids=lambda case: case.label)
def test_three_planners_make_the_same_of_a_convolution(case, tmp_path):
    model = nn.Sequential(case.layer).eval()
    shape = (1, 2, *case.size)
    named = what_is_done(by_name(case, model, tmp_path), "0.weight")
    # A file cannot say that a layer is dilated: its kernel gets zeros between the taps.
    dense = what_is_done(by_trace(case, model, shape, "dense"), "0.weight")
    traced = what_is_done(by_trace(case, model, shape), "0.weight")
    graph = what_is_done(by_graph(case, model, shape, tmp_path), "0.weight")
    # Names tell no size, so the right padding is the one for a typical size; everything else must be the same.
    assert {**named, "new_geometry": left_of(named)} == {**dense, "new_geometry": left_of(dense)}
    assert traced == graph
    assert named["operators"], "the layer does not change: the case compares nothing"


def left_of(done: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    return [(g.kernel, g.stride, g.padding[0], g.dilation) for g in done["new_geometry"]]


@pytest.mark.parametrize("method", METHODS_OF_GRIDS)
@pytest.mark.parametrize("scale", [2, 1.5, (2, 1)])
def test_three_planners_make_the_same_of_a_linear_layer_that_reads_a_grid(method, scale, tmp_path):
    case = Case("linear", nn.Identity(), (4, 6), scale, {"linear_grid": {"1": (3, 4, 6)}}, {"method": method})
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).eval()
    shape = (1, 3, 4, 6)
    keys = ("kind", "new_shape", "view", "operators", "mode")
    named = what_is_done(by_name(case, model, tmp_path), "1.weight")
    traced = what_is_done(by_trace(case, model, shape), "1.weight")
    plan = by_graph(case, model, shape, tmp_path)
    graph = what_is_done(plan, plan.changed[0].name)
    assert [named[key] for key in keys] == [traced[key] for key in keys]
    assert traced["operators"] == graph["operators"]
    assert traced["new_shape"] == graph["new_shape"]


@pytest.mark.parametrize("kind", [nn.MaxPool2d, nn.AvgPool2d])
@pytest.mark.parametrize("arguments", [(2,), (3, 2, 1), (2, 1)])
def test_trace_and_graph_make_the_same_of_a_pooling_and_say_the_same(kind, arguments, tmp_path):
    case = Case("pool", nn.Identity(), (12, 12), 2)
    model = nn.Sequential(conv(3, 1, 1), kind(*arguments)).eval()
    shape = (1, 2, 12, 12)
    traced, graph = by_trace(case, model, shape), by_graph(case, model, shape, tmp_path)
    (one,), (other,) = traced.modules, graph.modules
    assert (one.kind, one.geometry, one.new_geometry) == (other.kind, other.geometry, other.new_geometry)
    # Half a pixel of the input, of which a stride of 2 makes a quarter. The taps of the largest of 2 pixels lie on
    # pixels where there is no stride, and the window of their average lies between them.
    offsets = {nn.MaxPool2d: {(2,): 0.25, (3, 2, 1): 0.25}, nn.AvgPool2d: {(2, 1): 0.5}}
    offset = offsets[kind].get(arguments)
    beside = [note for note in traced.warnings if "beside their place, since" in note]  # the check has one of its own
    assert bool(beside) == bool(offset) == any("beside their place" in note for note in graph.warnings)
    assert all(f"lie {offset} pixels" in note for note in beside)


@pytest.mark.parametrize("method", [method for method in METHODS_OF_GRIDS if not method.startswith("pinv-")])
def test_graph_and_rule_make_the_same_of_position_embeddings(method, tmp_path):
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.pos = nn.Parameter(torch.randn(1, 8, 3, 3))

        def forward(self, x):
            return self.patch(x) + self.pos

    case = Case("positions", nn.Identity(), (12, 12), 2, {}, {"method": method})
    plan = by_graph(case, Positions().eval(), (1, 3, 12, 12), tmp_path)
    (graph,) = [change for change in plan.changed if change.kind == "values"]
    rule = rules.values(
        Weight(graph.name, "F32", (1, 8, 3, 3)), {2: [Cells(3, 6)], 3: [Cells(3, 6)]}, Settings(2, method), ""
    )
    assert graph.operators == rule.operators
    assert {operator.gain for operator in graph.operators} == {"none"}


def test_a_network_absorbs_unless_it_gives_an_image_back_or_is_told_otherwise():
    assert gives_image((1, 21, 12, 12), 4)
    assert not gives_image((1, 512, 1, 1), 4)
    assert not gives_image((1, 197, 64), 4)
    for attends in (False, True):
        assert network_mode("auto", Network(attends, False)) == "absorb"
        assert network_mode("auto", Network(attends, True)) == "supersample"
        assert network_mode("supersample", Network(attends, False)) == "supersample"
        assert network_mode("absorb", Network(attends, True)) == "absorb"


def test_the_method_of_a_layer_follows_from_its_role_where_the_caller_names_none():
    image, none = Network(gives_image=True), Network()

    def method(role, mode, network, **settings):
        return settings_of(Settings(settings.pop("scale", 2), **settings), role, mode, network).method

    assert method(Role.READS_IMAGE, "absorb", none) == method(None, "absorb", none) == "area"
    assert method(Role.READS_IMAGE, "supersample", none) == "area"
    assert method(Role.READS_IMAGE, "supersample", image) == "optimal"
    reader = settings_of(Settings(2), Role.READS_IMAGE, "supersample", image)
    assert (reader.taps, reader.smoothness) == ("full", FLAT)
    assert settings_of(Settings(2, taps=5), Role.READS_IMAGE, "supersample", image).taps == 5
    noise = Network(gives_image=True, predicts_noise=True)
    assert settings_of(Settings(2), Role.READS_IMAGE, "supersample", noise).taps is None
    assert method(Role.INNER, "supersample", image) == "optimal"
    assert method(Role.STRIDED, "supersample", none) == "dilate"
    assert method(Role.STRIDED, "supersample", none, scale=1.5) == "optimal"  # dilation needs whole numbers
    assert method(Role.ENLARGES, "supersample", none) == "optimal"
    assert method(Role.ENLARGES, "supersample", none, method="dilate") == "optimal"
    assert method(Role.READS_IMAGE, "absorb", none, method="cubic") == "cubic"
    assert method(Role.READS_IMAGE, "absorb", none, method="cubic", reading_filter="linear") == "linear"
    assert method(Role.INNER, "supersample", none, method="cubic", reading_filter="linear") == "cubic"


def test_a_role_is_told_by_where_a_layer_stands():
    assert role_of((1, 1)) is Role.INNER
    assert role_of((1, 2)) is Role.STRIDED
    assert role_of((2, 2), reads_image=True) is Role.READS_IMAGE
    assert role_of((1,), writes_image=True) is Role.WRITES_IMAGE
    assert role_of((2, 2), transposed=True, reads_image=True) is Role.ENLARGES


def test_a_layer_says_by_how_much_it_lies_beside_its_place():
    weight = Weight("w", "F32", (4, 2, 3))
    axis = ConvAxis(AxisGeometry(3, 2, (1, 1)), 2.0, 2.0, 16)
    exact = rules.convolution(weight, [axis], Settings(2, "optimal"), first=2, mode="supersample", reason="")
    dilated = rules.convolution(weight, [axis], Settings(2, "dilate"), first=2, mode="supersample", reason="")
    assert exact.offset == (0.0,)
    assert dilated.offset == (0.5,)
    pool = pooling("pool", "max-pool", [axis])
    assert pool.offset == dilated.offset  # the taps of both are spread, and neither can shift them


def test_a_layer_that_nothing_reaches_stays():
    weight = Weight("w", "F32", (4, 2, 3, 3))
    axis = ConvAxis(AxisGeometry(3, 1, (1, 1)), 1.0, 1.0)
    became = rules.convolution(weight, [axis, axis], Settings(2), first=2, mode="supersample", reason="")
    assert became.change.kept
    assert became.change.new_shape == weight.shape
    assert rules.reads_grid(Weight("fc", "F32", (5, 12)), 1, [Cells(12, 12)], Settings(1), "").kept


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: checked_mode("grow"), "supersample, absorb"),
        (lambda: rules.reads_grid(Weight("fc", "F32", (5, 12)), 1, [Cells(5, 10)], Settings(2), ""), "12 entries"),
        (lambda: grid_cells(12, (3, 5), (3, 10), "channels-first"), "15 cells"),
        (
            lambda: pooling("p", "avg-pool", [ConvAxis(AxisGeometry(640, 640, (0, 0)), 2, 2, 5)]),
            "a pooling of 640 pixels, stride 640, padding .* has no output on 5 pixels",
        ),
        (lambda: pooling("p", "avg-pool", [ConvAxis(AxisGeometry(2, 2, (0, 0)), 1.5, 1.5)]), "whole numbers"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(rk.RekernelError, match=words):
        make()


def test_an_output_of_a_rule_can_be_carried_out():
    """The matrices that a rule plans, applied by NumPy, are what `resample_conv` gives for the same layer."""
    w = np.random.default_rng(0).standard_normal((4, 2, 3, 3))
    axis = ConvAxis(AxisGeometry(3, 1, (1, 1)), 2.0, 2.0, 16)
    weight = Weight("w", "F64", w.shape)
    change: LayerChange = rules.convolution(
        weight, [axis, axis], Settings(2, "cubic", taps=7), first=2, mode="supersample", reason=""
    ).change
    expected = rk.resample_conv(w, 2, method="cubic", taps=7)
    np.testing.assert_allclose(change.apply(w), expected, rtol=1e-12, atol=1e-12)


def test_nothing_that_is_rescaled_has_no_note_about_shrinking():
    assert rules.shrinking_note(()) == ""
