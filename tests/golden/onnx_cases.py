"""ONNX models: those of tests/onnx/models.py, graphs made by hand, and networks that torch's older exporter writes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .old_defaults import plan_graph
from .plan_text import Case
from .trace_cases import ROOT, loaded

IMAGE = (1, 3, 8, 8)


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def node(op: str, inputs: str, out: str, name: str = "", **attributes: Any) -> Any:
    """A node; '-' stands for an input that is left out."""
    given = ["" if i == "-" else i for i in inputs.split()]
    return helper.make_node(op, given, [out], name=name or f"make_{out}", **attributes)


def conv(given: str, weight: str, out: str, pads: int = 1, **more: Any) -> Any:
    return node("Conv", f"{given} {weight}", out, pads=[pads] * 4, **more)


class Graphs:
    """Models in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def path(self) -> Path:
        self.count += 1
        return self.folder / f"{self.count}.onnx"

    def saved(self, nodes: Any, constants: dict[str, Any], shape: Any = IMAGE, opset: int = 18) -> Path:
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(nodes[-1].output[-1], TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
        )  # fmt: skip
        domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
        path = self.path()
        onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), path)
        return path

    def exported(self, model: Any, inputs: Any, **options: Any) -> Path:
        import torch

        path = self.path()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model.eval(), inputs, path, dynamo=False, verbose=False, **options)
        return path


def planned(path: Path, scale: Any = 2, **options: Any) -> Any:
    return plan_graph(path, scale, **options)


W = {"w": normal(4, 3, 3, 3)}
START = [conv("x", "w", "y")]
GRAPHS: dict[str, Any] = {
    "windows": ([*START, node("Reshape", "y s", "z")], W | {"s": ints(1, 4, 2, 4, 2, 4)}),
    "crop": ([*START, node("Slice", "y a b c", "z")], W | {"a": ints(0), "b": ints(4), "c": ints(2)}),
    "split": ([*START, helper.make_node("Split", ["y"], ["p", "z"], "halves", axis=3, num_outputs=2)], W),
    "pixel": ([*START, node("Gather", "y i", "z", axis=2)], W | {"i": ints(0)}),
    "sum": ([*START, node("ReduceSum", "y a", "z")], W | {"a": ints(2, 3)}),
    "mean": ([*START, node("ReduceMean", "y a", "z", keepdims=0), node("Gemm", "z m", "u")],
             W | {"a": ints(2, 3), "m": normal(4, 5)}),
    "custom": ([*START, helper.make_node("Strange", ["y"], ["z"], "odd", domain="com.example"), node("Relu", "z", "u")],
               W),
    "computed weight": ([node("Mul", "w two", "v"), conv("x", "v", "y")], W | {"two": np.float32(2)}),
    "quantised": ([node("DequantizeLinear", "w s", "v"), conv("x", "v", "y")],
                  {"w": np.ones((4, 3, 3, 3), np.int8), "s": np.float32(0.1)}),
    "norm": ([*START, node("LayerNormalization", "y g", "z", axis=1)], W | {"g": normal(4, 8, 8)}),
    "two sizes": (
        [*START, node("Resize", "y - - sizes", "c", "fixed"), node("Conv", "c w2", "d", "last", pads=[1] * 4),
         node("Conv", "y w2", "e", "other", strides=[2, 2], pads=[1] * 4), node("Add", "d e", "z", "sum")],
        W | {"w2": normal(4, 4, 3, 3), "sizes": ints(1, 4, 4, 4)},
    ),
    "matrix": ([*START, node("Flatten", "y", "f"), node("Gemm", "f m", "z", "head")], W | {"m": normal(256, 5)}),
    "turned matrix": ([*START, node("Flatten", "y", "f"), node("Gemm", "f m", "z", "head", transB=1)],
                      W | {"m": normal(5, 256)}),
    "matrix, channels last": (
        [*START, node("Transpose", "y", "t", perm=[0, 2, 3, 1]), node("Reshape", "t s", "f"),
         node("MatMul", "f m", "z")],
        W | {"m": normal(256, 5), "s": ints(1, 256)},
    ),
    "values": ([*START, node("Add", "y p", "z")], W | {"p": normal(1, 4, 8, 8)}),
    "fixed resize": ([*START, node("Resize", "y - - sizes", "z", mode="nearest")], W | {"sizes": ints(1, 4, 16, 12)}),
    "scaled resize": ([*START, node("Resize", "y - scales", "z", mode="linear"), conv("z", "v", "u")],
                      W | {"scales": np.array([1, 1, 2, 2], np.float32), "v": normal(2, 4, 3, 3)}),
    "pools": (
        [*START, node("MaxPool", "y", "a", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
         node("AveragePool", "a", "b", kernel_shape=[2, 2], strides=[2, 2]),
         node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[1, 1], dilations=[1, 1]),
         node("GlobalAveragePool", "c", "z")], W,
    ),
    "uneven pool": ([*START, node("AveragePool", "y", "z", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1])], W),
    "transposed": (
        [*START, node("ConvTranspose", "y t", "a", strides=[2, 2], pads=[1] * 4),
         node("ConvTranspose", "a u", "z", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])],
        W | {"t": normal(4, 4, 4, 4), "u": normal(4, 2, 3, 3)},
    ),
    "dilated and grouped": (
        [*START, conv("y", "v", "a", pads=2, dilations=[2, 2]), conv("a", "u", "z", group=4, strides=[2, 2])],
        W | {"v": normal(4, 4, 3, 3), "u": normal(4, 1, 3, 3)},
    ),
    "patches": (
        [node("Conv", "x p", "a", strides=[4, 4]), node("Reshape", "a s", "b"),
         node("Transpose", "b", "c", perm=[0, 2, 1]), node("Add", "c e", "z")],
        {"p": normal(8, 3, 4, 4), "s": ints(1, 8, 4), "e": normal(1, 4, 8)},
    ),
    "space to depth": ([*START, node("SpaceToDepth", "y", "a", blocksize=2), conv("a", "v", "z")],
                       W | {"v": normal(4, 16, 3, 3)}),
    "depth to space": ([*START, node("DepthToSpace", "y", "a", blocksize=2), conv("a", "v", "z")],
                       W | {"v": normal(4, 1, 3, 3)}),
}  # fmt: skip


def made_by_hand(graphs: Graphs) -> Iterator[Case]:
    theirs = loaded(ROOT / "tests" / "onnx" / "models.py")
    for title, options in {"model": {}, "open model": {"size": "side"}, "wide model": {"channels": 16}}.items():
        path = theirs.saved(graphs.path(), theirs.model(**options))
        for scale, method in ((2, "optimal"), (3, "cubic"), (1.5, "linear"), ((2, 1), "dilate"), (0.5, "area")):
            yield f"{title}, {scale}, {method}", lambda p=path, s=scale, m=method: planned(p, s, method=m)
    beside = theirs.saved(graphs.folder / "apart" / "m.onnx", beside="m.data", least=0)
    yield "tensors beside the model", lambda: planned(beside)
    yield "folder of a model", lambda: planned(beside.parent)
    for title, (nodes, constants) in GRAPHS.items():
        path = graphs.saved(nodes, constants)
        yield title, lambda p=path: planned(p)
        yield f"{title}, linear, 3", lambda p=path: planned(p, 3, method="linear")
        yield f"{title}, dilate", lambda p=path: planned(p, method="dilate")
    pad = [node("Pad", "x", "p", pads=[0, 0, 1, 1, 0, 0, 1, 1]), node("Conv", "p w", "y", strides=[2, 2])]
    old = graphs.saved(pad, W, opset=10)
    yield "padding in attributes", lambda: planned(old)
    pad = [node("Pad", "x pads - axes", "p"), node("Conv", "p w", "y", strides=[2, 2])]
    some = graphs.saved(pad, W | {"pads": np.ones(4, np.int64), "axes": ints(-1, 2)})
    yield "padding of some axes", lambda: planned(some)
    for mode in ("constant", "reflect", "edge", "wrap"):
        pads = W | {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}
        path = graphs.saved([node("Pad", "x pads", "p", mode=mode), node("Conv", "p w", "y")], pads, opset=19)
        yield f"padding by {mode}", lambda p=path: planned(p)
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for stride in (1, 2):
            path = graphs.saved([node("Conv", "x w", "y", auto_pad=auto, strides=[stride] * 2)], W)
            yield f"padding {auto}, stride {stride}", lambda p=path: planned(p)
    last = graphs.saved([node("Transpose", "x", "t", perm=[0, 3, 1, 2]), conv("t", "w", "y")], W, shape=(1, 8, 8, 3))
    yield "channels last", lambda: planned(last)
    flat = graphs.saved([node("MatMul", "x m", "y")], {"m": normal(4, 4)}, shape=(1, 4))
    yield "without an image", lambda: planned(flat)


def exported(graphs: Graphs) -> Iterator[Case]:
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    class Decoder(nn.Module):
        """Down, up by each way there is, and a skip connection."""

        def __init__(self, classes: bool) -> None:
            super().__init__()
            self.classes = classes
            self.down = nn.Conv2d(3, 8, 4, 2, 1)
            self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1)
            self.odd = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
            self.shuffled = nn.Conv2d(8, 16, 3, padding=1)
            self.last = nn.Conv2d(3 + 8 + 8 + 4 + 8, 2, 1)

        def forward(self, x: Any) -> Any:
            y = torch.sigmoid(self.down(x))
            up = F.interpolate(y, scale_factor=2.0, mode="nearest")
            z = self.last(torch.cat([x, self.up(y), self.odd(y), F.pixel_shuffle(self.shuffled(y), 2), up], 1))
            return z.argmax(1, keepdim=True).float() if self.classes else z

    class Padded(nn.Module):
        def __init__(self, mode: str) -> None:
            super().__init__()
            self.mode, self.conv = mode, nn.Conv2d(3, 4, 5)

        def forward(self, x: Any) -> Any:
            return self.conv(F.pad(x, (2, 2, 2, 2), mode=self.mode))

    class Answer(nn.Module):
        def __init__(self, model: Any, key: str) -> None:
            super().__init__()
            self.model, self.key = model, key

        def forward(self, *inputs: Any) -> Any:
            return getattr(self.model(*inputs), self.key)

    def classifier() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, groups=2),
            nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.GroupNorm(2, 8), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(8 * 4, 5),
        )  # fmt: skip

    torch.manual_seed(0)
    x = torch.zeros(1, 3, 16, 16)
    nets = {
        "classifier": classifier(), "decoder": Decoder(False), "decoder of classes": Decoder(True),
        **{f"padded by {m}": Padded(m) for m in ("constant", "reflect", "replicate")},
    }  # fmt: skip
    for title, net in nets.items():
        path = graphs.exported(net, (x,))
        for scale, options in (
            (2, {}), (4, {"method": "cubic"}), ((2, 4), {}), (2, {"taps": "full", "gain": "ratio"}), (1.5, {}),
            (2, {"method": "dilate"}),
        ):  # fmt: skip
            yield f"exported {title}, {scale}, {options}", lambda p=path, s=scale, o=options: planned(p, s, **o)
    path = graphs.exported(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)), (x,))
    for options in ({"exclude": ["0.weight"]}, {"include": ["1.weight"]}, {"exclude": ["*"]}):
        yield f"exported with {options}", lambda p=path, o=options: planned(p, **o)
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    free = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    path = graphs.exported(free, (x,), input_names=["x"], dynamic_axes=axes)
    yield "exported with open sides", lambda p=path: planned(p)
    half = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).half()
    path = graphs.exported(half, (x.half(),))
    yield "exported in half precision", lambda p=path: planned(p)
    for dims in (1, 3):
        layer, pool = getattr(nn, f"Conv{dims}d"), getattr(nn, f"MaxPool{dims}d")
        net = nn.Sequential(layer(2, 4, 3, padding=1), nn.ReLU(), pool(2), layer(4, 3, 5, padding=2))
        path = graphs.exported(net, (torch.zeros(1, 2, *(8,) * dims),))
        yield f"exported {dims}-D", lambda p=path: planned(p)
    from diffusers import UNet2DModel
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4,
        attn_implementation="eager",
    )  # fmt: skip
    path = graphs.exported(Answer(ViTModel(config), "last_hidden_state"), (x,))
    for method in ("optimal", "dilate", "pinv-linear"):
        yield f"exported ViT, {method}", lambda p=path, m=method: planned(p, method=m)
    unet = UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    path = graphs.exported(Answer(unet, "sample"), (x, torch.tensor([10.0])))
    yield "exported UNet", lambda p=path: planned(p)


def cases(folder: Path) -> Iterator[Case]:
    """All of them; models are made in `folder`."""
    graphs = Graphs(folder)
    yield from made_by_hand(graphs)
    yield from exported(graphs)
