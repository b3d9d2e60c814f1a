"""ONNX models through the command, run by onnxruntime: they say what the torch adapter's rescaled module says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import rekernel as rk
from rekernel.plan.recipe import KEY, Recipe
from rekernel_cli.main import main

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402 - after it is known to be there

pytest.importorskip("onnxscript")
import rekernel.torch as rkt  # noqa: E402 - after torch is known to be there

nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = pytest.mark.parametrize(
    "dynamo", [pytest.param(True, id="new exporter", marks=pytest.mark.slow), pytest.param(False, id="old exporter")]
)


def exported(model, inputs, path, *, dynamo=True, **options):
    """The model as torch's exporters write it: the new one, or the one most files were made with."""
    options = {"verbose": False} | options
    torch.onnx.export(model, inputs, path, dynamo=dynamo, **options)
    return path


def command(*args):
    return CliRunner().invoke(main, list(map(str, args)))


def converted(source, *options):
    target = source.with_name(f"{source.stem}-new.onnx")
    result = command("convert", source, target, *options)
    assert result.exit_code == 0, result.output + result.stderr
    return target


def said(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return session.run(None, dict(zip(names, (np.asarray(i) for i in inputs), strict=True)))[0]


def agrees(model, path, scale, small, *more, **options):
    """Convert the file, run both, compare; the module's plan is returned with the new file. The options go to both."""
    torch.manual_seed(1)
    scales = scale if isinstance(scale, tuple) else (scale,) * (small.ndim - 2)
    size = [round(n * s) for n, s in zip(small.shape[2:], scales, strict=True)]
    large = torch.randn(*small.shape[:2], *size)
    factors = ["--scale-h", scales[0], "--scale-w", scales[1]] if isinstance(scale, tuple) else ["--scale", scale]
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    target = converted(path, *map(str, factors), *given)
    rescaled = rkt.rescale(model, scale, (small, *more), **options).eval()
    with torch.no_grad():
        expected = rescaled(large, *more)
    given = said(target, large, *more)
    assert given.shape == tuple(expected.shape)
    assert np.allclose(given, expected.numpy(), atol=1e-4)
    return rescaled, target


def classifier():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2),
        nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.GroupNorm(2, 8), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(8 * 4, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dynamo", "scale"), [(True, 2), (False, 2), (False, 4), (False, (2, 4))], ids=["new exporter", "2", "4", "2x4"]
)
@pytest.mark.parametrize("mode", ["auto", "supersample"])
@pytest.mark.parametrize("method", ["auto", "optimal"])
def test_a_classifier(dynamo, scale, mode, method, tmp_path):
    torch.manual_seed(0)
    model, x = classifier().eval(), torch.zeros(2, 3, 16, 16)
    model(torch.randn(4, 3, 16, 16))
    path = exported(model, (x,), tmp_path / "m.onnx", dynamo=dynamo)
    rescaled, target = agrees(model, path, scale, x, mode=mode, method=method)
    new = onnx.load(target)
    onnx.checker.check_model(new, full_check=True)
    sides = [round(16 * s) for s in (scale if isinstance(scale, tuple) else (scale, scale))]
    assert [d.dim_value for d in new.graph.input[0].type.tensor_type.shape.dim] == [2, 3, *sides]
    convs = [n for n in new.graph.node if n.op_type == "Conv" and not n.input[1].endswith("_average")]
    taps = {tensor.name: list(tensor.dims[2:]) for tensor in new.graph.initializer}  # older exporters name no shape
    assert [taps[n.input[1]] for n in convs] == [
        list(layer.weight.shape[2:]) for layer in rescaled if getattr(layer, "weight", torch.zeros(1)).ndim == 4
    ]


class Decoder(nn.Module):
    """Down, up by each way there is, and a skip connection."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.odd = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
        self.shuffled = nn.Conv2d(8, 16, 3, padding=1)
        self.last = nn.Conv2d(3 + 8 + 8 + 4 + 8, 2, 1)

    def forward(self, x):
        y = torch.sigmoid(self.down(x))
        up = nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")
        fixed = nn.functional.pixel_shuffle(self.shuffled(y), 2)
        return self.last(torch.cat([x, self.up(y), self.odd(y), fixed, up], 1)).argmax(1, keepdim=True).float()


class Segmenter(Decoder):
    def forward(self, x):
        y = torch.sigmoid(self.down(x))
        up = nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")
        fixed = nn.functional.pixel_shuffle(self.shuffled(y), 2)
        return self.last(torch.cat([x, self.up(y), self.odd(y), fixed, up], 1))


@BOTH
def test_an_image_to_image_network(dynamo, tmp_path):
    torch.manual_seed(0)
    model, x = Segmenter().eval(), torch.zeros(1, 3, 16, 16)
    agrees(model, exported(model, (x,), tmp_path / "m.onnx", dynamo=dynamo), 2, x)


def test_a_grid_of_classes_is_given_at_the_new_size(tmp_path):
    torch.manual_seed(0)
    model, x = Decoder().eval(), torch.zeros(1, 3, 16, 16)
    target = converted(exported(model, (x,), tmp_path / "m.onnx", dynamo=False), "--scale", "2")
    assert said(target, torch.randn(1, 3, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions(dims, tmp_path):
    torch.manual_seed(0)
    conv, pool = getattr(nn, f"Conv{dims}d"), getattr(nn, f"MaxPool{dims}d")
    model = nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), pool(2), conv(4, 3, 5, padding=2)).eval()
    x = torch.zeros(1, 2, *(8,) * dims)
    agrees(model, exported(model, (x,), tmp_path / "m.onnx", dynamo=False), 2, x)


def test_an_open_batch_and_open_sides_stay_open(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    x = torch.zeros(2, 3, 16, 16)
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    path = exported(model, (x,), tmp_path / "m.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes)
    target = converted(path, "--scale", "2")
    dims = onnx.load(target).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]
    large = torch.randn(3, 3, 48, 32)
    with torch.no_grad():
        assert np.allclose(said(target, large), rkt.rescale(model, 2, x)(large).numpy(), atol=1e-4)


class Reflecting(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode, self.conv = mode, nn.Conv2d(3, 4, 5)

    def forward(self, x):
        return self.conv(nn.functional.pad(x, (2, 2, 2, 2), mode=self.mode))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_padding_before_the_convolution_grows_with_it(mode, tmp_path):
    """Beside a module whose own padding does the same: that is what the torch adapter rescales exactly."""
    torch.manual_seed(0)
    model, x = Reflecting(mode).eval(), torch.zeros(1, 3, 16, 16)
    own = nn.Conv2d(3, 4, 5, padding=2, padding_mode="zeros" if mode == "constant" else mode)
    own.load_state_dict(model.conv.state_dict())
    target = converted(exported(model, (x,), tmp_path / "m.onnx", dynamo=False), "--scale", "2")
    large = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert np.allclose(said(target, large), rkt.rescale(own, 2, x)(large).numpy(), atol=1e-4)


@pytest.mark.parametrize("form", ["attributes", "some axes"])
def test_padding_is_read_wherever_a_version_keeps_it(form, tmp_path):
    """Up to opset 10 in attributes, since opset 18 for the axes that are named; a stride needs more than was there."""
    torch.manual_seed(0)
    own, x = nn.Conv2d(3, 4, 4, stride=2, padding=1, bias=False), torch.zeros(1, 3, 16, 16)
    constants = {"w": own.weight.detach().numpy()}
    if form == "attributes":
        opset, pad = 10, helper.make_node("Pad", ["x"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1])
    else:
        opset, pad = 18, helper.make_node("Pad", ["x", "pads", "", "axes"], ["p"])
        constants |= {"pads": np.ones(4, np.int64), "axes": np.array([-1, 2])}
    graph = helper.make_graph(
        [pad, helper.make_node("Conv", ["p", "w"], ["y"], strides=[2, 2])], "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 16, 16])], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    large = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = rkt.rescale(own, 2, x)(large).numpy()
    assert np.allclose(said(converted(tmp_path / "m.onnx", "--scale", "2"), large), expected, atol=1e-4)


class Answer(nn.Module):
    def __init__(self, model, key):
        super().__init__()
        self.model, self.key = model, key

    def forward(self, *inputs):
        return getattr(self.model(*inputs), self.key)


@BOTH
def test_a_vision_transformer_absorbs_in_its_first_convolution(dynamo, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4,
        attn_implementation="eager",
    )  # fmt: skip
    model, x = Answer(transformers.ViTModel(config), "last_hidden_state").eval(), torch.zeros(1, 3, 16, 16)
    _, target = agrees(model, exported(model, (x,), tmp_path / "m.onnx", dynamo=dynamo), 2, x)
    [conv] = [n for n in onnx.load(target).graph.node if n.op_type == "Conv"]
    assert list(onnx.helper.get_node_attr_value(conv, "strides")) == [8, 8]


@BOTH
def test_a_unet_with_attention(dynamo, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    model, x, t = Answer(unet, "sample").eval(), torch.zeros(1, 3, 16, 16), torch.tensor([10.0])
    agrees(model, exported(model, (x, t), tmp_path / "m.onnx", dynamo=dynamo), 2, x, t)


def test_tensors_outside_the_file_are_read_and_the_result_is_one_file(tmp_path):
    torch.manual_seed(0)
    model, x = classifier().eval(), torch.zeros(1, 3, 16, 16)
    whole = exported(model, (x,), tmp_path / "m.onnx", external_data=False)
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(whole), apart, save_as_external_data=True, location="apart.data", size_threshold=0)
    ours, theirs = converted(whole, "--scale", "2"), converted(apart, "--scale", "2")
    large = torch.randn(1, 3, 32, 32)
    assert np.array_equal(said(ours, large), said(theirs, large))
    recipe = Recipe.from_json({e.key: e.value for e in onnx.load(theirs).metadata_props}[KEY])
    assert [s.nbytes for s in recipe.sources] == [apart.stat().st_size, (tmp_path / "apart.data").stat().st_size]
    assert not any(t.external_data for t in onnx.load(theirs, load_external_data=False).graph.initializer)


def test_half_precision_stays(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).half().eval()
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float16)
    target = converted(exported(model, (x,), tmp_path / "m.onnx", dynamo=False), "--scale", "2")
    kinds = {t.data_type for t in onnx.load(target).graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert said(target, np.zeros((1, 3, 16, 16), np.float16)).dtype == np.float16


def test_a_dry_run_a_plan_and_the_plan_carried_out(tmp_path):
    torch.manual_seed(0)
    model, x = classifier().eval(), torch.zeros(1, 3, 16, 16)
    source = exported(model, (x,), tmp_path / "m.onnx", external_data=False)
    target = tmp_path / "out.onnx"
    options = ("--mode", "supersample", "--method", "optimal")
    dry = command("convert", source, target, "--scale", "2", *options, "--dry-run", "--json")
    assert dry.exit_code == 0 and not target.exists()
    said_so = json.loads(dry.stdout)
    names = {c["name"] for c in said_so["plans"][""]["changes"]}
    assert {"0.weight", "9.weight"} <= names and said_so["output_bytes"] > source.stat().st_size
    assert "0.weight" in command("plan", source, "--scale", "2").stdout
    plan = command("plan", source, "--scale", "2", *options, "--taps", "7", "--json")
    (tmp_path / "plan.json").write_text(plan.stdout)
    report = command("convert", source, target, "--plan", tmp_path / "plan.json", "--json")
    assert report.exit_code == 0, report.stderr
    assert json.loads(report.stdout)["files"][0]["bytes"] == target.stat().st_size
    direct = converted(source, "--scale", "2", *options, "--taps", "7")
    assert direct.read_bytes() == target.read_bytes()


def test_kernels_left_out_stay_and_equal_input_gives_equal_bytes(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)).eval()
    x = torch.zeros(1, 3, 8, 8)
    source = exported(model, (x,), tmp_path / "m.onnx", dynamo=False)
    target = converted(source, "--scale", "2", "--exclude", "0.weight", "--method", "cubic", "--gain", "ratio")
    large = torch.randn(1, 3, 16, 16)
    expected = rkt.rescale(model, 2, x, exclude=["0.weight"], method="cubic", gain="ratio")
    with torch.no_grad():
        assert np.allclose(said(target, large), expected(large).numpy(), atol=1e-5)
    again = tmp_path / "again.onnx"
    command("convert", source, again, "--scale", "2", "--exclude", "0.weight", "--method", "cubic", "--gain", "ratio")
    assert again.read_bytes() == target.read_bytes()


def test_a_factor_that_is_no_whole_number(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3)).eval()
    x = torch.zeros(1, 3, 8, 8)
    for name, options in (("m", {"mode": "supersample"}), ("n", {"reading_filter": "linear"})):
        agrees(model, exported(model, (x,), tmp_path / f"{name}.onnx", dynamo=False), 1.5, x, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet", "ConvNext", "MobileNetV2", "RegNet"])
def test_transformers_networks(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "MobileNetV2": {"depth_multiplier": 0.1, "image_size": 64},
        "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**sizes[name])
    model = Answer(getattr(transformers, f"{name}Model")(config), "last_hidden_state").eval()
    x = torch.zeros(1, 3, 64, 64)
    agrees(model, exported(model, (x,), tmp_path / "m.onnx", dynamo=False), 2, x)


def test_features_beside_their_place_are_named_as_torch_names_them(tmp_path):
    """A pooling at the end; a convolution behind it would make up for the half pixel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1)).eval()
    x = torch.zeros(1, 3, 16, 16)
    source = exported(model, x, tmp_path / "m.onnx")
    even, odd = (rk.plan_source(source, scale=scale)[""] for scale in (2, 3))
    [theirs] = rkt.rescale(model, 2, x).rekernel_plan.warnings
    [ours] = even.warnings
    assert ours.partition(": ")[2] == theirs.partition(": ")[2] and not odd.warnings
    for number, last in enumerate([nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 2, 1, stride=2)]):  # the second crops
        more = nn.Sequential(*model, last).eval()
        agrees(more, exported(more, x, tmp_path / f"{number}.onnx", dynamo=False), 2, x)
