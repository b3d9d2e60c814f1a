"""Which layer reads the image, by names alone, what is done with it, and that the loaded model answers N(Dx)."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import rekernel as rk
from rekernel.architectures.registry import recognise
from rekernel.planning.reading_by_name import NOT_NEEDED, RESAMPLED, reader_of, reading
from rekernel.planning.settings import Hints, Settings

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402

SEED = 17

RESNET = {
    "conv1.weight": (8, 3, 7, 7),
    "layer1.0.conv1.weight": (8, 8, 3, 3),
    "layer2.0.conv1.weight": (16, 8, 3, 3),
    "layer2.0.downsample.0.weight": (16, 8, 1, 1),
    "fc.weight": (10, 16),
}
VIT = {
    "patch_embed.proj.weight": (32, 3, 16, 16),
    "pos_embed": (1, 197, 32),
    "cls_token": (1, 1, 32),
    "blocks.0.attn.qkv.weight": (96, 32),
    "head.weight": (10, 32),
}
CONVNEXT = {
    "stem.0.weight": (8, 3, 4, 4),
    "stages.0.blocks.0.conv_dw.weight": (8, 1, 7, 7),
    "stages.1.downsample.1.weight": (16, 8, 2, 2),
    "head.fc.weight": (10, 16),
}
UNET = {
    "conv_in.weight": (8, 4, 3, 3),
    "time_embedding.linear_1.weight": (8, 8),
    "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
    "down_blocks.1.resnets.0.conv1.weight": (8, 8, 3, 3),
    "up_blocks.0.resnets.0.conv1.weight": (8, 16, 3, 3),
    "conv_out.weight": (4, 8, 3, 3),
}
CLASSIFIER = {"stem.weight": (8, 3, 3, 3), "body.weight": (8, 8, 3, 3), "fc.weight": (10, 8)}


def read(shapes, scale=2, asked="auto", hints=None):
    return reading(shapes, recognise(shapes), Settings(scale), hints or Hints(), asked, shapes)


@pytest.fixture
def planned(tmp_path):
    def plan(shapes, scale=2, **options):
        path = tmp_path / "in.safetensors"
        save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path, {"format": "pt"})
        result = rk.plan_checkpoint(path, scale, **options)
        return result, {change.name: change for change in result.changes}

    return plan


@pytest.mark.parametrize(
    ("family", "shapes", "mode", "readers"),
    [
        ("ResNet", RESNET, "absorb", {"conv1.weight"}),
        ("ResNet", RESNET | {"conv1.weight": (8, 3, 3, 3)}, "absorb", {"conv1.weight"}),
        ("ResNet", RESNET | {"fpn.inner.weight": (8, 8, 3, 3)}, "supersample", {"conv1.weight"}),
        ("ResNet", RESNET | {"deconv_layers.0.weight": (8, 8, 4, 4)}, "supersample", {"conv1.weight"}),
        ("ResNet", RESNET | {"classifier.4.weight": (21, 8, 1, 1)}, "supersample", {"conv1.weight"}),
        ("vision transformer", VIT, "absorb", {"patch_embed.proj.weight"}),
        ("ConvNeXt", CONVNEXT, "absorb", {"stem.0.weight"}),
        ("ConvNeXt", CONVNEXT | {"decode_head.conv.weight": (8, 8, 3, 3)}, "supersample", {"stem.0.weight"}),
        ("diffusers UNet", UNET, "supersample", {"conv_in.weight"}),
    ],
)
def test_a_family_tells_the_layer_that_reads_the_image_and_whether_one_is_given_back(family, shapes, mode, readers):
    assert recognise(shapes).name == family
    found = read(shapes)
    assert (found.mode, found.readers, found.note) == (mode, readers, "")


CNN = {"0.weight": (8, 1, 3, 3), "2.weight": (8, 8, 3, 3), "10.weight": (10, 128)}


@pytest.mark.parametrize(
    ("shapes", "mode", "reader"),
    [
        (CLASSIFIER, "absorb", "stem.weight"),
        ({"conv1.weight": (8, 3, 3, 3), "classifier.6.weight": (10, 8)}, "absorb", "conv1.weight"),
        ({"module.stem.weight": (8, 3, 3, 3), "module.fc1.weight": (10, 8)}, "absorb", "module.stem.weight"),
        (CNN, "absorb", "0.weight"),  # a Sequential, whose last number is a matrix
        (CNN | {"12.weight": (4, 8, 3, 3)}, "supersample", "0.weight"),  # ends in a convolution
        ({"0.weight": (8, 1, 5)} | {"1.weight": (4, 8, 5), "head.weight": (3, 4)}, "absorb", "0.weight"),  # a signal
        # A depthwise convolution has one input channel, too, but not the colours of an image.
        ({"a.dw.weight": (8, 1, 3, 3), "stem.weight": (8, 3, 3, 3), "fc.weight": (2, 8)}, "absorb", "stem.weight"),
        # A head inside a block answers for the block; a decoder makes the answer of the network an image.
        ({"stem.weight": (8, 3, 3, 3), "blocks.0.mlp.fc1.weight": (32, 8)}, "supersample", "stem.weight"),
        ({"stem.weight": (8, 3, 3, 3), "layer.0.output.dense.weight": (8, 8)}, "supersample", "stem.weight"),
        ({"stem.weight": (8, 3, 3, 3), "blocks_0.mlp.fc1.weight": (32, 8)}, "supersample", "stem.weight"),
        ({"resnet18.stem.weight": (8, 3, 3, 3), "resnet18.fc.weight": (5, 8)}, "absorb", "resnet18.stem.weight"),
        (CLASSIFIER | {"decoder.conv.weight": (3, 8, 3, 3)}, "supersample", "stem.weight"),
        (CLASSIFIER | {"up1.conv.weight": (3, 8, 3, 3)}, "supersample", "stem.weight"),
        (CLASSIFIER | {"seg_head.weight": (3, 8, 1, 1)}, "supersample", "stem.weight"),
    ],
)
def test_of_no_family_the_first_convolution_that_reads_colours_reads_the_image(shapes, mode, reader):
    assert recognise(shapes) is None
    found = read(shapes)
    assert (found.mode, found.readers) == (mode, {reader})
    assert bool(found.note) == (mode == "supersample")  # the names leave it open, and the note says what to pass
    assert found.note == "" or "--mode absorb" in found.note.on_command_line()
    for name in shapes:
        assert reader_of(dict.fromkeys([name, *shapes]) | shapes, None) == reader  # whatever comes first


def test_two_layers_that_read_colours_leave_it_open_and_the_plan_says_so(planned):
    shapes = {"rgb.weight": (8, 3, 3, 3), "depth.weight": (8, 2, 3, 3), "fc.weight": (10, 8)}
    plan, changes = planned(shapes)
    assert {changes[name].mode for name in ("rgb.weight", "depth.weight")} == {"supersample"}
    [note] = [n for n in plan.warnings if "no name tells which layer reads the image" in n]
    assert "--mode absorb --mode NAME=absorb" in note.on_command_line()
    assert note.endswith("mode='absorb', hints=Hints(mode={'NAME': 'absorb'})")
    with pytest.raises(rk.RekernelError, match=r"no name tells which layer reads.*mode=\{'NAME': 'absorb'\}"):
        planned(shapes, mode="absorb")
    plan, changes = planned(shapes, mode="absorb", hints=Hints(mode={"rgb": "absorb", "dep*": "absorb"}))
    assert {c.name for c in plan.changed} == {"rgb.weight", "depth.weight"}
    assert {c.mode for c in plan.changed} == {"absorb"} and changes["fc.weight"].reason == NOT_NEEDED


def test_the_way_out_of_the_error_works_where_no_layer_reads_colours(planned):
    shapes = {"bands.weight": (8, 12, 3, 3), "body.weight": (8, 8, 3, 3), "fc.weight": (10, 8)}
    with pytest.raises(rk.RekernelError) as caught:
        planned(shapes, mode="absorb")
    assert "--mode NAME=absorb" in caught.value.on_command_line()
    plan, changes = planned(shapes, mode="absorb", hints=Hints(mode={"bands": "absorb"}))
    assert [c.name for c in plan.changed] == ["bands.weight"] and changes["bands.weight"].new_shape == (8, 12, 6, 6)
    with pytest.raises(rk.RekernelError, match=r"bands\.weight: reads the image, but is not selected"):
        planned(shapes, mode="absorb", hints=Hints(mode={"bands": "absorb"}), exclude=["bands"])


def test_a_hint_for_one_layer_leaves_the_others_to_supersample(planned):
    _, changes = planned(CLASSIFIER, hints=Hints(mode={"stem": "absorb"}), method="optimal")
    assert {name: c.mode for name, c in changes.items()} == {
        "stem.weight": "absorb", "body.weight": "supersample", "fc.weight": "",
    }  # fmt: skip
    _, again = planned(CLASSIFIER, mode="supersample", hints=Hints(mode={"stem": "absorb"}), method="optimal")
    assert again == changes


@pytest.mark.parametrize("mode", ["supersample", "absorb"])
def test_a_mode_for_all_layers_is_the_mode_of_the_network(mode, planned):
    assert planned(CLASSIFIER, hints=Hints(mode={"*": mode}))[1] == planned(CLASSIFIER, mode=mode)[1]


def test_a_layout_of_one_layer_tells_its_colours(planned):
    shapes = {"a/kernel": (7, 7, 3, 16), "b/kernel": (3, 3, 16, 16), "fc/kernel": (16, 10)}
    plan, changes = planned(shapes, mode="absorb", hints=Hints(layout={"a": "HWIO", "b": "HWIO"}))
    assert [c.name for c in plan.changed] == ["a/kernel"]
    assert changes["a/kernel"].new_shape == (14, 14, 3, 16)


def test_a_resnet_absorbs_in_its_stem_and_keeps_the_rest(planned):
    plan, changes = planned(RESNET)
    stem = changes["conv1.weight"]
    assert [c.name for c in plan.changed] == ["conv1.weight"] and not plan.warnings
    assert stem.new_shape == (8, 3, 14, 14) and {o.method for o in stem.operators} == {"area"}
    assert [(g.stride, g.padding) for g in stem.geometry] == [(2, (3, 3))] * 2
    assert [(g.stride, g.padding) for g in stem.new_geometry] == [(4, (6, 6))] * 2
    assert {c.reason for name, c in changes.items() if name != "conv1.weight"} == {NOT_NEEDED}
    _, changes = planned(RESNET, 1.5)
    assert {g.stride for g in changes["conv1.weight"].new_geometry} == {3}


@pytest.mark.parametrize("reading_filter", ["linear", "cubic", "lanczos3", "optimal"])
def test_the_layer_that_reads_the_image_has_a_filter_of_its_own(reading_filter, planned):
    _, changes = planned(RESNET, reading_filter=reading_filter)
    assert {o.method for o in changes["conv1.weight"].operators} == {reading_filter}
    _, changes = planned(RESNET, mode="supersample", reading_filter=reading_filter, method="cubic")
    assert {o.method for o in changes["conv1.weight"].operators} == {reading_filter}
    assert {o.method for o in changes["layer2.0.conv1.weight"].operators} == {"cubic"}


def test_inside_a_classifier_that_supersamples_every_layer_is_dilated_on_one_grid(planned):
    _, changes = planned(RESNET, mode="supersample", overrides={"layer2.0.conv1": {"method": "cubic"}})
    stem, inner, strided = (changes[f"{n}.weight"] for n in ("conv1", "layer1.0.conv1", "layer2.0.conv1"))
    assert [change.operators[0].method for change in (stem, inner, strided)] == ["area", "dilate", "cubic"]
    # Pixel 0 stays pixel 0 on both grids of the strided layer, so its taps lie on pixels, by whatever method.
    assert {o.phase for change in (inner, strided) for o in change.operators} == {0}
    assert {o.phase for o in stem.operators} == {0}


@pytest.mark.parametrize(
    ("shapes", "scale", "hints", "why"),
    [
        (CLASSIFIER, 1.5, Hints(), "stem: a stride that no name tells cannot absorb a scale of 1.5"),
        (CLASSIFIER, (1.5, 2), Hints(stride={"stem": 1}), "stem: stride 1 cannot absorb a scale of 1.5x2"),
        (RESNET, 1.25, Hints(), "conv1: stride 2 cannot absorb a scale of 1.25"),
        (RESNET, 0.5, Hints(), "conv1: stride 2 cannot absorb a scale of 0.5"),
    ],
)
def test_a_scale_that_cannot_be_absorbed_resamples_the_image_in_front(shapes, scale, hints, why, planned):
    plan, changes = planned(shapes, scale, hints=hints)
    assert not plan.changed and {c.reason for c in changes.values()} == {RESAMPLED}
    [module] = plan.modules
    assert (module.name, module.kind, module.method, module.reason) == ("", "resample", "lanczos3", why)
    [note] = plan.warnings
    assert note.startswith(why) and "rekernel.torch.load does this" in note
    assert str(plan).startswith("no tensor changes") and rk.Plan.from_json(plan.to_json()) == plan


def test_a_hint_of_the_stride_lets_a_layer_absorb_what_it_divides(planned):
    _, changes = planned(CLASSIFIER, 1.5, hints=Hints(stride={"stem": 2}))
    assert {g.stride for g in changes["stem.weight"].new_geometry} == {3}
    plan, _ = planned(VIT, 0.5)  # enlarging the image keeps more than a smaller patch
    assert [m.kind for m in plan.modules] == ["resample"] and not plan.changed
    plan, changes = planned(VIT, 0.5, mode="absorb")  # a patch may shrink, since it is a grid of pixels of its own
    assert changes["patch_embed.proj.weight"].new_shape == (32, 3, 8, 8) and not plan.modules


def test_a_vision_transformer_keeps_its_patch_where_it_cannot_grow_by_the_scale(planned):
    plan, changes = planned(VIT, 384 / 224)
    assert [c.name for c in plan.changed] == ["pos_embed"] and not plan.modules
    assert changes["pos_embed"].new_shape == (1, 1 + 24 * 24, 32)
    assert "more tokens are read" in changes["patch_embed.proj.weight"].reason
    assert read(VIT, 384 / 224).keeps_patch
    plan, _ = planned(VIT, 384 / 224, mode="absorb")  # who insists on the trained tokens gets the trained image
    assert [m.kind for m in plan.modules] == ["resample"] and not plan.changed


class Strided(nn.Module):
    """A small classifier whose stem has a stride that its names do not tell."""

    def __init__(self, kernel=3, padding=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, kernel, 2, padding)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 12, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(12 * 16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc(self.pool(torch.relu(self.body(x))).flatten(1))


def trained(**how):
    torch.manual_seed(SEED)
    model = Strided(**how).eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    return model


def converted(model, tmp_path, scale, **options):
    """The model as a stranger gets it: weights in a file, converted by names, loaded into a new model."""
    save_file(model.state_dict(), tmp_path / "in.safetensors", {"format": "pt"})
    report = rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=scale, **options)
    return report.plans[""]


@pytest.mark.parametrize("how", [{}, {"kernel": 7, "padding": 3}, {"kernel": 4, "padding": 1}], ids=str)
@pytest.mark.parametrize("scale", [2, 3, (2, 1)], ids=str)
def test_a_strided_network_converted_without_a_hint_is_the_trained_one_on_the_reduced_image(how, scale, tmp_path):
    model = trained(**how)
    plan = converted(model, tmp_path, scale)
    assert [c.name for c in plan.changed] == ["stem.weight"]
    [note] = plan.warnings
    assert note.startswith("stem.weight: no name tells its stride and padding")
    larger = rkt.load(Strided(**how).eval(), tmp_path / "out.safetensors")
    high, wide = scale if isinstance(scale, tuple) else (scale, scale)
    x = torch.randn(2, 3, 32 * high, 32 * wide)
    with torch.inference_mode():
        found, expected = larger(x), model(nn.functional.avg_pool2d(x, (high, wide)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.5, 0.5])
def test_a_file_whose_image_is_resampled_in_front_loads_as_the_trained_network_on_the_resampled_image(scale, tmp_path):
    model = trained()
    plan = converted(model, tmp_path, scale)
    assert plan.resamples and not plan.changed
    before, after = load_file(tmp_path / "in.safetensors"), load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert rk.inspect(tmp_path / "out.safetensors").recipe.plan.resamples
    larger = rkt.load(Strided().eval(), tmp_path / "out.safetensors")
    x = torch.randn(2, 3, round(32 * scale), round(32 * scale), dtype=torch.float64)
    matrix = torch.from_numpy(np.array(rk.grid_operator(x.shape[-1], 32, "lanczos3", gain="none")))
    reduced = torch.einsum("ih,nchw,jw->ncij", matrix, x, matrix)
    with torch.inference_mode():
        found, expected = larger(x.float()), model(reduced.float())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(rk.RekernelError, match="was rescaled already"):
        rk.plan_checkpoint(tmp_path / "out.safetensors", 2)
