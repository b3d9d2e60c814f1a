"""The inputs of the mistakes: small real files of each kind, sound and broken, written once a session."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

import rekernel as rk

Arrays = Mapping[str, NDArray[Any]]


def arrays(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


NET = {
    "conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "conv2.weight": (16, 8, 3, 3), "point.weight": (16, 16, 1, 1),
    "fc.weight": (10, 256),
}  # fmt: skip
BLOCKS = {
    f"down_blocks.{i}.resnets.{j}.{name}": shape
    for i in range(2) for j in range(2)
    for name, shape in {"conv1.weight": (8, 8, 3, 3), "conv1.bias": (8,), "conv2.weight": (8, 8, 3, 3)}.items()
}  # fmt: skip
UNET = {
    "conv_in.weight": (8, 4, 3, 3), "conv_in.bias": (8,), **BLOCKS, "conv_out.weight": (4, 8, 3, 3),
    "mid_block.resnets.0.conv1.weight": (8, 8, 3, 3), "up_blocks.0.resnets.0.conv1.weight": (8, 16, 3, 3),
    "time_embedding.linear_1.weight": (8, 8),
}  # fmt: skip
LORA = {
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": (4, 8, 3, 3),
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": (8, 4, 1, 1),
    "lora_unet_down_blocks_0_resnets_0_conv1.alpha": (),
}
FLAX = {
    "params/Conv_0/kernel": (3, 3, 3, 8), "params/Conv_0/bias": (8,), "params/Conv_1/kernel": (3, 3, 8, 16),
    "params/Conv_2/kernel": (3, 3, 16, 16), "params/Dense_0/kernel": (16, 10),
}  # fmt: skip
VIT = {
    "embeddings.patch_embeddings.projection.weight": (8, 3, 16, 16), "embeddings.cls_token": (1, 1, 8),
    "embeddings.position_embeddings": (1, 197, 8), "encoder.layer.0.attention.attention.query.weight": (8, 8),
}  # fmt: skip


def write_all(root: Path) -> None:
    """Write every input into `root`."""
    _sound(root)
    _folders(root)
    _broken(root)
    _foreign(root)
    _converted(root)
    _models(root)


def _sound(root: Path) -> None:
    save_file(arrays(NET), root / "net.safetensors", metadata={"format": "pt"})
    save_file(arrays(NET), root / "my net.safetensors")
    save_file(arrays(UNET), root / "unet.safetensors")
    save_file(arrays(LORA), root / "lora.safetensors")
    save_file(arrays(FLAX), root / "flax.safetensors")
    save_file({name.replace("/", "."): t for name, t in arrays(FLAX).items()}, root / "dots.safetensors")
    save_file({"fc1.weight": np.ones((16, 784), np.float32)}, root / "mlp.safetensors")
    save_file({"norm.weight": np.ones(4, np.float32)}, root / "norms.safetensors")
    save_file({"conv.weight": np.ones((4, 3, 3, 3), np.int8)}, root / "int8.safetensors")
    quantized = {
        "conv1.weight": np.ones((8, 3, 3, 3), np.float32), "fc1.weight": np.ones((128, 1), np.uint8),
        "fc1.weight.absmax": np.ones(4, np.float32), "fc1.weight.quant_map": np.ones(16, np.float32),
        "fc1.weight.quant_state.bitsandbytes__nf4": np.ones(80, np.uint8),
    }  # fmt: skip
    save_file(quantized, root / "bnb.safetensors")
    save_file({name: t for name, t in quantized.items() if name != "conv1.weight"}, root / "all4bit.safetensors")
    save_file({"my conv.weight": np.ones((4, 3, 3, 3), np.int8)}, root / "spaced.safetensors")
    nan = arrays(NET)
    nan["conv2.weight"][0, 0, 1, 1] = np.nan
    save_file(nan, root / "nan.safetensors")


def _folders(root: Path) -> None:
    for folder in ("empty", "two", "shards", "lost", "orphan", "vit", "weights.safetensors", "full"):
        (root / folder).mkdir()
    (root / "full" / "notes.txt").write_text("mine")
    for name in ("a", "b"):
        save_file(arrays(NET), root / "two" / f"{name}.safetensors")
    halves = list(arrays(NET).items())
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {name: names[i > 1] for i, (name, _) in enumerate(halves)}
    for folder in ("shards", "lost", "orphan"):
        save_file(dict(halves[:2]), root / folder / names[0])
        save_file(dict(halves[2:]), root / folder / names[1])
        if folder != "orphan":
            text = json.dumps({"metadata": {}, "weight_map": index})
            (root / folder / "model.safetensors.index.json").write_text(text)
    (root / "lost" / names[1]).unlink()
    save_file(arrays(VIT), root / "vit" / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "vit", "architectures": ["ViTModel"], "image_size": 224, "patch_size": 16}
    (root / "vit" / "config.json").write_text(json.dumps(config))
    for pipe in ("sd", "my sd"):
        for part in ("unet", "vae"):
            (root / pipe / part).mkdir(parents=True)
            save_file(arrays(UNET), root / pipe / part / "diffusion_pytorch_model.safetensors")
        config = {"_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 4}
        (root / pipe / "unet" / "config.json").write_text(json.dumps(config))
        (root / pipe / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
        parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
        (root / pipe / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    (root / "links").mkdir()
    (root / "links" / "away").symlink_to(root / "net.safetensors")
    (root / "pixels").mkdir()
    (root / "pixels" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')


def _broken(root: Path) -> None:
    whole = save(arrays(NET))
    for name, content in {
        "cut.safetensors": whole[:-100],
        "head.safetensors": whole[:40],
        "none.safetensors": b"",
        "text.safetensors": b"hello, this is text and no checkpoint",
        "long.safetensors": whole + b"more",
        "lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        "page.safetensors": b"<!DOCTYPE html><html><body>Sign in</body></html>",
        "model.gguf": b"GGUF\x03\x00\x00\x00" + bytes(64),
        "named.safetensors": b"GGUF\x03\x00\x00\x00" + bytes(64),
        "json.safetensors": b'{"conv": 1}',
        "config.json": b'{"model_type": "vit"}',
        "bad.safetensors.index.json": b"{not json",
        "empty.safetensors.index.json": b"{}",
    }.items():
        (root / name).write_bytes(content)
    (root / "gone.safetensors").symlink_to("nowhere")


def _foreign(root: Path) -> None:
    np.savez(root / "arrays.npz", conv=np.ones((4, 3, 3, 3)))
    np.save(root / "array.npy", np.ones((4, 3, 3, 3)))
    (root / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    with zipfile.ZipFile(root / "net.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.0"}')
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    with zipfile.ZipFile(root / "stuff.safetensors", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    # The beginning of what flax.serialization.to_bytes writes: a map with one text key.
    (root / "flax.msgpack").write_bytes(b"\x81\xa6params\x81\xa6Conv_0\x81\xa6kernel\xc7\x10\x01" + bytes(32))
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (root / "archive.tar.gz").write_bytes(b"\x1f\x8b\x08\x00" + bytes(64))
    (root / "evil.pt").write_bytes(pickle.dumps(io.StringIO))
    (root / "net.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))
    (root / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
    (root / "odd.onnx").write_bytes(b"this is text")


def _converted(root: Path) -> None:
    rk.convert(root / "net.safetensors", root / "net-2x.safetensors", scale=2, mode="supersample")
    plan = rk.plan_checkpoint(root / "net.safetensors", scale=2).to_json()
    (root / "plan.json").write_text(plan)
    (root / "plan.txt").write_text("conv1.weight  8x3x3x3  8x3x5x5")
    (root / "list.json").write_text("[1, 2]")
    (root / "noplan.json").write_text("{}")
    (root / "newer.json").write_text(json.dumps({**json.loads(plan), "version": 99}))
    (root / "unet-plan.json").write_text(rk.plan_checkpoint(root / "unet.safetensors", scale=2).to_json())
    (root / "measured.json").write_text('{"error": 1}')


MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.point, self.fc = nn.Conv2d(16, 16, 1, bias=False), nn.Linear(256, 10, bias=False)
    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(self.point(self.conv2(self.conv1(x))), 4)
        return self.fc(x.flatten(1))

class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3)

def broken():
    raise KeyError("no such file in my own code")

def nothing():
    return None

needs = lambda size: None
number = 3
"""


def _models(root: Path) -> None:
    (root / "models.py").write_text(MODELS)
    (root / "wrong.py").write_text("def f(:\n")
    (root / "needs.py").write_text("import no_such_package_of_ours\n")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    np.savez(root / "images.npz", images=images, labels=np.zeros(4, np.int64))
    np.savez(root / "short.npz", images=images, labels=np.zeros(3, np.int64))
    np.savez(root / "small.npz", images=images[..., :8, :8])
    np.savez(root / "unnamed.npz", x=images)


def write_onnx(root: Path) -> None:
    """Write a network with maximum pooling as ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["a"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    sizes = {"x": [1, 3, None, None], "y": [1, 4, None, None]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), root / "net.onnx")
