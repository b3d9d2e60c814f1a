"""Fuzz targets for the rest: records, journals, ONNX models, listings of the Hub, and options of the command line."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import rekernel as rk

from .inputs import Choices, document_bytes, json_bytes, mutated, spoiled
from .readers import read_everywhere, readable, shown, tried

RECORD = {
    "version": 1, "tool": "rekernel 0.1.0", "scale": 2.0, "sample_size": 64,
    "guidance": {"theta": 1.0, "eta": 0.6, "enlarge": "nearest", "predictor": "reduced", "levels": 2},
    "kernels": {"layers": "inner", "method": "optimal", "until": 0.7, "progressive": True},
    "positions": {"method": "yarn", "temperature": 1.0}, "cascade": [0.5],
}  # fmt: skip


def record(data: bytes, folder: Path) -> None:
    """The entry of a config.json that says how a pipeline is sampled."""
    from rekernel.diffusion.pipelines.record import read_record
    from rekernel.plan.config_entry import recipe_beside

    choices = Choices(data)
    entry: Any = {name: value for name, value in RECORD.items() if choices.below(3) or name in ("version", "scale")}
    if not choices.below(4):
        plan = {"schema": "rekernel.plan", "version": 1, "family": "", "options": {}, "warnings": [], "changes": []}
        entry = {"version": 1, "scale": 2.0, "plan": plan, "trained": {"sample_size": 8}}
    config = {"_class_name": "UNet2DModel", "sample_size": 128, "_rekernel": entry}
    (folder / "config.json").write_bytes(document_bytes(config, choices.rest()))
    found = tried(lambda: read_record(folder))
    tried(lambda: recipe_beside(folder))
    if found is not None:
        repr(found)
        tried(lambda: found.new_size)
        tried(found.to_entry)
        tried(found.parts)


def journal(data: bytes, folder: Path) -> None:
    """The list of finished files of an interrupted conversion."""
    from rekernel.conversion.journal import NAME, Journal

    document = {"one.safetensors": [1000, 1700000000000000000], "two/three.safetensors": [8, 9]}
    (folder / NAME).write_bytes(document_bytes(document, data))
    Journal(folder).read()


def onnx(data: bytes, folder: Path) -> None:
    """An ONNX model with wrong fields, as text or as bytes."""
    from google.protobuf import json_format
    from onnx import ModelProto

    choices = Choices(data)
    proto = _model(choices.below(3))
    if not choices.below(3):
        raw = spoiled(proto.SerializeToString(), choices)
    else:
        document = mutated(json_format.MessageToDict(proto), choices)
        try:
            raw = json_format.ParseDict(document, ModelProto(), ignore_unknown_fields=True).SerializeToString()
        except Exception:  # not a message at all, so that it cannot be written
            return
    path = folder / "x.onnx"
    path.write_bytes(raw)
    read_everywhere(path, folder / "out.onnx")


def _model(kind: int) -> Any:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(np.ones(shape, np.float32), name)

    def numbers(name: str, *values: int) -> Any:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"]
    conv = helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1, 1, 1, 1], strides=[1, 1], kernel_shape=[3, 3])
    if kind == 0:
        nodes = [conv, helper.make_node("Relu", ["a"], ["b"]),
                 helper.make_node("Conv", ["b", "v"], ["y"], "second", pads=[1, 1, 1, 1])]  # fmt: skip
        held = [constant("w", 2, 3, 3, 3), constant("v", 3, 2, 3, 3)]
    elif kind == 1:
        nodes = [conv, helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
                 helper.make_node("Resize", ["b", "", "", "s"], ["c"], mode="nearest"),
                 helper.make_node("Pad", ["c", "p"], ["d"]), helper.make_node("Conv", ["d", "v"], ["y"])]  # fmt: skip
        held = [constant("w", 2, 3, 3, 3), constant("v", 3, 2, 3, 3), numbers("s", 1, 2, 8, 8),
                numbers("p", 0, 0, 1, 1, 0, 0, 1, 1)]  # fmt: skip
    else:
        nodes = [conv, helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
                 helper.make_node("ReduceMean", ["b", "m"], ["c"], keepdims=1),
                 helper.make_node("Reshape", ["b", "r"], ["d"]),
                 helper.make_node("MatMul", ["d", "f"], ["y"])]  # fmt: skip
        held = [constant("w", 2, 3, 3, 3), numbers("m", 2, 3), numbers("r", 1, 32), constant("f", 32, 5)]
        ends[1] = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


_ANSWER: dict[str, Any] = {}


class _Portal(BaseHTTPRequestHandler):
    """Answers every request with what the input says, as a captive portal does."""

    def do_GET(self) -> None:
        listing = "/tree/" in self.path
        body = _ANSWER["tree" if listing else "info"]
        self.send_response(_ANSWER["status"])
        self.send_header("Content-Type", _ANSWER["kind"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


def endpoint() -> str:
    """Start the portal, and return its address, before huggingface_hub is imported."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Portal)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def hub(data: bytes, folder: Path) -> None:
    """Answers of something that is not the Hub."""
    choices = Choices(data)
    info = {"id": "org/model", "sha": "0" * 40, "private": False, "siblings": [{"rfilename": "model.safetensors"}]}
    tree = [{"type": "file", "path": "model.safetensors", "size": 100, "oid": "1" * 40},
            {"type": "file", "path": "model_index.json", "size": 10, "oid": "2" * 40}]  # fmt: skip
    odd = (b"", b"<!doctype html><html>Log in</html>", b"\x00\xff\xfe", b"null", b"[]", b'"text"')
    bodies = []
    for document in (info, tree):
        kind = choices.below(4)
        bodies.append(
            choices.pick(odd)
            if kind == 0
            else json_bytes(document)
            if kind == 1
            else json_bytes(mutated(document, choices))
        )
    kinds = ("application/json", "text/html", "application/octet-stream", "")
    _ANSWER.update(info=bodies[0], tree=bodies[1], status=choices.pick((200, 200, 200, 404, 401, 302)),
                   kind=choices.pick(kinds))  # fmt: skip
    shown(tried(lambda: rk.inspect("hf://org/model")))
    tried(lambda: rk.plan_source("hf://org/model", 2))


OPTIONS = (
    "--scale", "--from", "--to", "--method", "--reading-filter", "--mode", "--gain", "--taps", "--cubic-a",
    "--smoothness", "--preset", "--include", "--exclude", "--set", "--linear-grid", "--output-grid", "--order",
    "--stride", "--dilation", "--padding", "--layout", "--grid", "--component", "--max-shard-size", "--dtype",
    "--plan", "--theta", "--eta",
)  # fmt: skip
WORDS = (
    "2", "1.5", "0", "-1", "1e308", "1e-308", "1300", "64", "65", "2x3", "1x2x3x4", "nan", "inf", "", "x", "4096",
    "full", "cubic", "optimal", "dilate", "absorb", "conv1=2", "conv1=absorb", "conv1=512,7,7", "*=OIHW", "re:(",
    "re:.*:scale=9", "conv*:scale=1e308", "conv*:taps=4096,method=area", "[", "\x1b[2J", "\u202e", "\udcff",
    "9" * 400, "1KB", "0GB", "999999TB", "bf16", "32x32", "999999999x1", "conv1=1,1", "../..", "/dev/null",
    "conv*:a=1e300", "conv1.weight",
)  # fmt: skip


def options(data: bytes, folder: Path) -> None:
    """Values of the options of `plan` and `convert`."""
    from click.testing import CliRunner
    from safetensors.numpy import save_file

    from rekernel_cli.main import main

    from .targets_weights import weights

    source = folder / "in.safetensors"
    if not source.exists():
        save_file(weights(), source)
    choices = Choices(data)
    command = choices.pick(("plan", "convert", "convert"))
    words = [command, str(source), *([str(folder / "out.safetensors"), "--force"] if command == "convert" else [])]
    words += ["--scale", "2"] if choices.below(2) else []
    for _ in range(1 + choices.below(3)):
        value = choices.pick(WORDS) if choices.below(4) else choices.rest()[:40].decode("utf-8", "surrogateescape")
        words += [choices.pick(OPTIONS), value.replace("\x00", "")]
    result = CliRunner().invoke(main, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), words
    assert "is a bug in rekernel" not in result.stderr, (words, result.stderr)
    for line in result.output.splitlines():
        readable(line)
