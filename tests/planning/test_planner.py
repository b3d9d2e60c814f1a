"""From shapes to a plan: scales per axis, hints, presets, what is refused, and notes whose advice works."""

from __future__ import annotations

import math
import re
import shlex

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from rekernel import Hints, Plan, RekernelError, conv_geometry, plan_checkpoint
from rekernel.checkpoint.dtypes import FLOATS
from rekernel.planning.reading_by_name import NOT_NEEDED

torch = pytest.importorskip("torch")
SEED = 7


@pytest.fixture
def planned(tmp_path):
    """Plan a real file with these shapes; returns the plan and its changes by name."""

    def plan(shapes, scale=2, dtype=torch.float32, **options):
        generator = torch.Generator().manual_seed(SEED)
        path = tmp_path / "in.safetensors"
        tensors = {
            name: (torch.randn(value, generator=generator).to(dtype) if isinstance(value, tuple) else value)
            for name, value in shapes.items()
        }
        safetensors.torch.save_file(tensors, path)
        result = plan_checkpoint(path, scale, **options)
        return result, {change.name: change for change in result.changes}

    return plan


SUPERSAMPLE = {"mode": "supersample", "method": "optimal"}
"""For tests of kernels that supersample, whatever the defaults are."""
CONV = {"a.weight": (8, 4, 3, 3), "a.bias": (8,), "b.weight": (8, 8, 3, 3)}


def test_a_scale_per_axis_goes_height_first(planned):
    _, changes = planned({"a.weight": (8, 4, 3, 3)}, (2, 3), **SUPERSAMPLE)
    assert changes["a.weight"].new_shape == (8, 4, 5, 7)
    assert [o.scale for o in changes["a.weight"].operators] == [2.0, 3.0]
    assert [g.padding for g in changes["a.weight"].new_geometry] == [(2, 2), (3, 3)]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 1)])
def test_two_scales_leave_the_time_axis_of_a_video_model_alone(kernel, planned):
    _, changes = planned({"a.weight": (8, 4, *kernel)}, (2, 2), **SUPERSAMPLE)
    spatial = tuple(5 if k == 3 else 1 for k in kernel[1:])
    assert changes["a.weight"].new_shape == (8, 4, kernel[0], *spatial)
    assert all(o.axis > 2 for o in changes["a.weight"].operators)


def test_three_scales_reach_time_and_one_number_reaches_every_axis(planned):
    _, changes = planned({"a.weight": (8, 4, 3, 3, 3)}, (2, 1, 3), **SUPERSAMPLE)
    assert changes["a.weight"].new_shape == (8, 4, 5, 3, 7)
    _, changes = planned({"a.weight": (8, 4, 3, 3, 3)}, 2, **SUPERSAMPLE)
    assert changes["a.weight"].new_shape == (8, 4, 5, 5, 5)


def test_scales_that_do_not_fit_a_layer_are_noted_and_a_setting_for_it_resolves_them(planned):
    shapes = {"a.weight": (8, 4, 3, 3), "t.weight": (8, 8, 3), "t.bias": (8,)}
    plan, changes = planned(shapes, (2, 2))
    assert changes["t.weight"].kept
    assert any("t.weight" in w and "overrides" in w and "--set" in w.on_command_line() for w in plan.warnings)
    _, changes = planned(shapes, (2, 2), overrides={"t": {"scale": 3}})
    assert changes["t.weight"].new_shape == (8, 8, 7)


@pytest.mark.parametrize(
    ("scale", "taps", "new"), [(0.5, "full", (8, 4, 7, 7)), (1.5, None, (8, 4, 5, 5)), (1.5, 7, (8, 4, 7, 7))]
)
def test_any_real_scale_plans_a_kernel_that_stays_centred(scale, taps, new, planned):
    method = "linear" if taps == "full" else "optimal"
    _, changes = planned({"a.weight": (8, 4, 7, 7) if scale < 1 else (8, 4, 3, 3)}, scale, taps=taps, method=method)
    change = changes["a.weight"]
    assert change.new_shape == new or scale < 1
    for operator, geometry in zip(change.operators, change.new_geometry, strict=True):
        assert operator.scale == scale and abs(operator.phase) <= 0.5
        assert geometry.padding[0] + geometry.padding[1] == geometry.kernel - 1  # 'same' stays 'same'
    assert change.dc_deviation() < 1e-9


def test_shrinking_makes_kernels_smaller(planned):
    _, changes = planned({"a.weight": (8, 4, 7, 7)}, 0.5)
    assert changes["a.weight"].new_shape[2:] < (7, 7)
    assert changes["a.weight"].dc_deviation() < 1e-9


def test_scale_one_keeps_everything(planned):
    shapes = CONV | {"p.weight": (8, 8, 4, 4), "fc.weight": (10, 128)}
    hints = Hints(linear_grid={"fc": (8, 4, 4)}, mode={"p": "absorb"}, stride={"p": 4}, padding={"p": 0})
    plan, _ = planned(shapes, 1, hints=hints)
    assert not plan.changed and str(plan).startswith("nothing changes")


def test_include_exclude_and_overrides_decide_together(planned):
    shapes = {f"{block}.{i}.weight": (4, 4, 3, 3) for block in ("down", "up") for i in range(3)}
    plan, changes = planned(
        shapes,
        include=["down.*", r"re:up\.[12]"],
        exclude=["down.0"],
        overrides={"*": {"method": "linear"}, "up.*": {"taps": 7}, "up.2": {"method": "cubic", "scale": [2, 3]}},
    )
    assert {c.name for c in plan.changed} == {"down.1.weight", "down.2.weight", "up.1.weight", "up.2.weight"}
    assert changes["down.0.weight"].reason == "not selected by include or excluded"
    methods = {c.name: (c.operators[0].method, c.operators[0].new) for c in plan.changed}
    assert methods["down.1.weight"] == ("linear", 7) and methods["up.1.weight"] == ("linear", 7)
    assert changes["up.2.weight"].new_shape == (4, 4, 7, 7)
    assert [o.scale for o in changes["up.2.weight"].operators] == [2.0, 3.0]
    assert {o.method for o in changes["up.2.weight"].operators} == {"cubic"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"include": ["aa.weight"]}, "include: pattern aa.weight matches no tensor; near: .*a.weight"),
        ({"exclude": ["c.weight"]}, "exclude: pattern c.weight matches no tensor; near: "),
        ({"overrides": {"z*": {"taps": 5}}}, "overrides: pattern"),
        ({"overrides": {"a": {"size": 5}}}, "overrides a: size is not a setting; they are scale, method"),
        ({"overrides": {"a": {"method": "magic"}}}, "magic"),
        ({"overrides": {"a": {"scale": 0}}}, "scale=0 must be"),
        ({"hints": Hints(stride={"c": 2})}, "stride: pattern c matches no tensor"),
        ({"hints": Hints(linear_grid={"fc": (1, 2, 2)})}, "linear_grid: pattern fc matches no tensor"),
        ({"hints": Hints(layout={"x.*": "HWIO"})}, "layout: pattern"),
        ({"hints": Hints(mode={"a": "grow"})}, "mode grow is not one of supersample, absorb"),
        ({"hints": Hints(layout={"a.weight": "OIW"})}, "layout='OIW' does not fit"),
        ({"preset": "inner"}, "preset inner is unknown for a checkpoint of no known family; only all is known"),
        ({"method": "magic"}, "magic"),
        ({"gain": "x"}, "gain='x'"),
        ({"scale": 0}, "scale=0"),
        ({"scale": -1.0}, "scale=-1.0"),
        ({"scale": math.nan}, "scale=nan"),
        ({"scale": math.inf}, "scale=inf"),
        ({"scale": ()}, r"scale=\(\)"),
        ({"hints": Hints(mode={"a": "absorb"}), "scale": 1.5}, "a.weight.* stride 1 with scale 1.5 in"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, words, planned):
    with pytest.raises(RekernelError, match=words) as caught:
        planned(CONV, **options)
    assert str(caught.value).isprintable()


def test_a_scale_of_numpy_is_a_scale(planned):
    for scale in (np.float64(2), np.float32(2), np.int64(2), (np.float64(2), 2), np.array([2, 2]), [2, 2]):
        plan, changes = planned({"a.weight": (8, 4, 3, 3)}, scale, **SUPERSAMPLE)
        assert changes["a.weight"].new_shape == (8, 4, 5, 5)
        assert Plan.from_json(plan.to_json()).changes == plan.changes


@pytest.mark.parametrize("order", ["channels-first", "channels-last"])
def test_a_linear_that_reads_a_grid_is_resampled_in_its_order(order, planned):
    hints = Hints(linear_grid={"fc": (3, 4, 6)}, order={"*": order})
    plan, changes = planned({"fc.weight": (10, 72), "fc.bias": (10,)}, (2, 1.5), method="linear", hints=hints)
    change = changes["fc.weight"]
    assert change.new_shape == (10, 3 * 8 * 9) and changes["fc.bias"].kept
    assert change.view == ((10, 3, 4, 6) if order == "channels-first" else (10, 4, 6, 3))
    assert change.dc_deviation() < 1e-12
    w = np.random.default_rng(SEED).standard_normal((10, 72)).astype(np.float32)
    image = np.random.default_rng(SEED + 1).standard_normal((3, 4, 6))
    big = image.repeat(2, axis=1)  # constant within a pixel along the axis of scale 2
    flat, big_flat = (x if order == "channels-first" else x.transpose(1, 2, 0) for x in (image, big))
    one = plan_one_axis(change, w)
    np.testing.assert_allclose(one @ big_flat.ravel(), w @ flat.ravel(), rtol=1e-4, atol=1e-4)
    assert Plan.from_json(plan.to_json()) == plan


def plan_one_axis(change, w):
    """The change along its first spatial axis alone, by 'nearest': then a doubled image gives the same answer."""
    from dataclasses import replace

    first = replace(change.operators[0], method="nearest")
    new = math.prod(first.new if i == first.axis else n for i, n in enumerate(change.view)) // 10
    return replace(change, operators=(first,), new_shape=(10, new)).apply(w)


def test_a_linear_that_writes_a_grid_takes_its_bias_along_without_coefficient(planned):
    hints = Hints(output_grid={"head": (3, 4, 4)})
    _, changes = planned({"head.weight": (48, 10), "head.bias": (48,)}, hints=hints)
    for name, shape in (("head.weight", (192, 10)), ("head.bias", (192,))):
        assert changes[name].new_shape == shape and changes[name].kind == "linear-out"
        assert {o.gain for o in changes[name].operators} == {"none"}
        out = changes[name].apply(np.ones(changes[name].shape, np.float32))
        np.testing.assert_allclose(out, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("layout", "shape", "new"),
    [("HWIO", (3, 3, 4, 8), (5, 5, 4, 8)), ("OHWI", (8, 3, 3, 4), (8, 5, 5, 4)), ("IOHW", (4, 8, 3, 3), (4, 8, 5, 5))],
)
def test_a_layout_says_which_axes_are_spatial(layout, shape, new, planned):
    _, changes = planned({"a.kernel": shape, "a.bias": (8,)}, hints=Hints(layout={"a": layout}), **SUPERSAMPLE)
    assert changes["a.kernel"].new_shape == new and changes["a.bias"].kept


def test_stride_padding_and_mode_come_from_hints_and_the_last_pattern_wins(planned):
    hints = Hints(stride={"*": 4, "a": 2}, padding={"a": 0}, mode={"a": "absorb"})
    _, changes = planned({"a.weight": (8, 4, 3, 3), "b.weight": (8, 4, 3, 3)}, hints=hints)
    a, b = changes["a.weight"], changes["b.weight"]
    assert [(g.stride, g.padding) for g in a.geometry] == [(2, (0, 0))] * 2
    assert {g.stride for g in a.new_geometry} == {4}  # absorbs: its stride grows
    assert [(g.stride, g.padding) for g in b.geometry] == [(4, (1, 1))] * 2
    assert {g.stride for g in b.new_geometry} == {4}


OPTION = re.compile(r"--([\w-]+) ([^\s=]+)=([\w,]+)")


def hints_in(note, unknown):
    """What a reader who follows a note literally would type, with the letters it leaves open filled in."""
    found = {}
    for option, name, value in OPTION.findall(" ".join(shlex.split(note.replace("'same'", "same")))):
        value = str(unknown[value]) if value in unknown else value
        parsed = tuple(map(int, value.split(","))) if "," in value else int(value) if value.isdigit() else value
        found[option.replace("-", "_")] = {name: parsed}
    return Hints(**found)


@pytest.mark.parametrize(
    ("shapes", "unclear", "new"),
    [
        ({"fc.weight": (10, 3072), "a.weight": (8, 3, 3, 3)}, "fc.weight", (10, 3 * 64 * 64)),
        ({"conv.weight": (64, 3, 3, 3), "fc.weight": (10, 4096)}, "fc.weight", (10, 64 * 16 * 16)),
        ({"a.weight": (8, 4, 4, 4)}, "a.weight", (8, 4, 8, 8)),
        ({"a[0].weight": (8, 4, 2, 2)}, "a[0].weight", (8, 4, 4, 4)),
        ({"w.weight": (8, 4, 5)}, "w.weight", (8, 4, 9)),
        ({"a.kernel": (3, 3, 64, 128)}, "a.kernel", (5, 5, 64, 128)),
        ({"a.weight": (3, 3, 64, 128)}, "a.weight", (5, 5, 64, 128)),
        ({"a.filters": (16, 4, 3, 3)}, "a.filters", (16, 4, 5, 5)),
        ({"a.kernel": (3, 3, 3, 64, 128)}, "a.kernel", (5, 5, 5, 64, 128)),
    ],
)
def test_every_note_names_the_option_that_resolves_it(shapes, unclear, new, planned):
    plan, changes = planned(shapes, **SUPERSAMPLE)
    assert changes[unclear].kept and changes[unclear].reason == "unclear, see the notes"
    [note] = [w for w in plan.warnings if w.startswith(unclear + " ")]
    unknown = {"N": 2, "P": 1 if shapes[unclear][-1] == 4 else 0}
    hints = eval(re.search(r"hints=(Hints\(.*\))", note)[1], {"Hints": Hints, **unknown})
    assert "--" not in note and hints_in(note.on_command_line(), unknown) == hints
    plan, changes = planned(shapes, hints=hints, **SUPERSAMPLE)
    assert changes[unclear].new_shape == new
    assert not [w for w in plan.warnings if w.startswith(unclear + " ")]


def test_the_note_on_assumed_strides_goes_away_where_they_are_given(planned):
    plan, _ = planned(CONV, **SUPERSAMPLE)
    [note] = plan.warnings
    assert "2 convolutions" in note and note.endswith("hints=Hints(stride={'NAME': 2})")
    assert note.on_command_line().endswith("--stride NAME=2")
    assert not planned(CONV, hints=Hints(stride={"*": 1}), **SUPERSAMPLE)[0].warnings


VIT = {
    "patch_embed.proj.weight": (32, 3, 8, 8),
    "patch_embed.proj.bias": (32,),
    "pos_embed": (1, 17, 32),
    "cls_token": (1, 1, 32),
    "blocks.0.attn.qkv.weight": (96, 32),
}


def test_a_vision_transformer_absorbs_the_scale_in_its_patches(planned):
    _, changes = planned(VIT)
    patch = changes["patch_embed.proj.weight"]
    assert patch.new_shape == (32, 3, 16, 16) and patch.kind == "patch"
    assert [(g.kernel, g.stride, g.padding) for g in patch.new_geometry] == [(16, 16, (0, 0))] * 2
    assert patch.dc_deviation() < 1e-9
    assert {operator.method for operator in patch.operators} == {"area"}
    assert changes["pos_embed"].kept and changes["pos_embed"].reason == NOT_NEEDED
    assert changes["cls_token"].kept and changes["blocks.0.attn.qkv.weight"].kept
    _, changes = planned(VIT, hints=Hints(mode={"patch_embed.proj": "absorb"}))
    assert changes["patch_embed.proj.weight"].new_shape == (32, 3, 16, 16)
    assert changes["pos_embed"].kept and "token grid stays" in changes["pos_embed"].reason


@pytest.mark.parametrize("where", ["patch_embed.proj", "pos_embed", "*"])
def test_supersampling_a_vision_transformer_grows_the_token_grid_and_keeps_the_class_token(where, planned):
    _, changes = planned(VIT, (2, 3), hints=Hints(mode={where: "supersample"}))
    positions = changes["pos_embed"]
    assert positions.new_shape == (1, 1 + 8 * 12, 32) and positions.prefix == 1
    values = np.random.default_rng(SEED).standard_normal((1, 17, 32)).astype(np.float32)
    out = positions.apply(values)
    assert out.shape == positions.new_shape and np.array_equal(out[:, :1], values[:, :1])
    constant = positions.apply(np.full((1, 17, 32), 3, np.float32))
    np.testing.assert_allclose(constant, 3, rtol=1e-6)  # values: no coefficient
    assert {o.gain for o in positions.operators} == {"none"}
    if where != "pos_embed":
        assert {g.stride for g in changes["patch_embed.proj.weight"].new_geometry} == {8}


@pytest.mark.parametrize(("dtype", "called"), [("complex64", "C64"), ("bool", "BOOL")])
def test_a_cast_is_not_proposed_where_none_helps(dtype, called, planned):
    odd = torch.ones(8, 4, 3, 3).to(getattr(torch, dtype))
    for allow_cast in (False, True):
        with pytest.raises(RekernelError, match=rf"q\.weight: dtype {called} is not .*exclude=\['q\.weight'\]\)\.$"):
            planned({"q.weight": odd}, allow_cast=allow_cast)


def test_a_file_without_tensors_is_called_so(planned):
    with pytest.raises(RekernelError, match="holds no tensors"):
        planned({})


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int32"])
def test_a_selected_weight_of_another_dtype_is_refused_by_name_unless_allowed(dtype, planned):
    odd = torch.ones(8, 4, 3, 3).to(getattr(torch, dtype))
    with pytest.raises(RekernelError, match=r"q\.weight: dtype .*exclude=\['q\.weight'\].*allow_cast=True"):
        planned({"a.weight": (8, 4, 3, 3), "q.weight": odd})
    plan, _ = planned({"a.weight": (8, 4, 3, 3), "q.weight": odd}, exclude=["q.weight"])
    assert {c.dtype for c in plan.changed} <= set(FLOATS)
    _, changes = planned({"a.weight": (8, 4, 3, 3), "q.weight": odd}, allow_cast=True)
    assert changes["q.weight"].new_shape == (8, 4, 5, 5)


def test_dilation_spreads_the_taps_and_changes_none(planned):
    _, changes = planned({"a.weight": (8, 4, 3, 3)}, method="dilate")
    w = np.random.default_rng(SEED).standard_normal((8, 4, 3, 3)).astype(np.float32)
    out = changes["a.weight"].apply(w)
    assert out.shape == (8, 4, 5, 5)
    assert np.array_equal(out[..., ::2, ::2], w) and np.count_nonzero(out) == w.size
    with pytest.raises(RekernelError, match=r"a\.weight.*dilation needs whole positions"):
        planned({"a.weight": (8, 4, 3, 3)}, 1.5, method="dilate")


def test_where_a_family_is_known_its_preset_is_named_and_wrong_names_are_refused(planned):
    plan, _ = planned(VIT)
    assert plan.options["selection"] == "preset 'patch'" and plan.family == "vision transformer"
    with pytest.raises(RekernelError, match=r"preset inner is unknown for a vision transformer.*only patch is known"):
        planned(VIT, preset="inner")


def test_padding_may_differ_between_the_sides(tmp_path):
    """As in diffusers' UNet2DModel with downsample_padding=0, which pads right and bottom by hand."""
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"down.conv.weight": np.zeros((4, 4, 3, 3), np.float32)}, path)
    hints = Hints(stride={"down.conv": 2}, padding={"down.conv": (0, 1)})
    [change] = plan_checkpoint(path, 2, method="cubic", hints=hints).changed
    expected = conv_geometry(3, method="cubic", stride=2, padding=(0, 1), scale_in=2.0)
    assert [axis.padding for axis in change.geometry] == [(0, 1)] * 2
    assert [axis.padding for axis in change.new_geometry] == [expected.padding] * 2
