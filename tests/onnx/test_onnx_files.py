"""ONNX files from the outside: what `inspect` lists, tensors in files beside the model, and folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rekernel_cli.main import main

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - after it is known to be there

import rekernel as rk  # noqa: E402

from ..conversion.killed import killer  # noqa: E402
from ..conversion.test_replacing import files  # noqa: E402
from .models import initializers, model, saved  # noqa: E402


def command(*args):
    return CliRunner().invoke(main, list(map(str, args)))


def ok(*args):
    result = command(*args)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*args):
    result = command(*args)
    assert result.exit_code == 1 and "Traceback" not in result.stderr, result.output
    return " ".join(result.stderr.split())


def answers(path, side=16):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.linspace(-1, 1, 3 * side**2, dtype=np.float32).reshape(1, 3, side, side)})[0]


def outside(path, change):
    """A model whose first weight lies in w.bin, after `change` had its entries."""
    made = model()
    tensor = made.graph.initializer[0]
    (path.parent / "w.bin").write_bytes(b"\0" * 16 + tensor.raw_data)
    told = {"location": "w.bin", "offset": "16", "length": str(len(tensor.raw_data))}
    change(told)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in told.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(made.SerializeToString())
    return path


def test_a_listing_is_that_of_a_checkpoint(tmp_path):
    source = saved(tmp_path / "m.onnx")
    text = ok("inspect", source, "--tensors").stdout
    for line in (
        f"{source}: ONNX model, 2.1 kB, 5 tensors, 519 parameters", "family    ONNX graph", "inputs    x: F32 1x3x8x8",
        "outputs   y: F32 1x4xheightxwidth", "dtypes    F32: 3 tensors", "metadata  author: [red]somebody",
        "recipe    none: not rescaled by rekernel", "second.weight  F32    4x8x3x3  1,152",
    ):  # fmt: skip
        assert line in text.replace("\n", " ") or line in text, line
    assert "presets" not in text
    document = json.loads(ok("inspect", source, "--json").stdout)
    assert document["inputs"] == [{"name": "x", "dtype": "F32", "shape": [1, 3, 8, 8]}]
    assert document["outputs"] == [{"name": "y", "dtype": "F32", "shape": [1, 4, "height", "width"]}]
    expected = {name: (list(value.shape), value.nbytes) for name, value in initializers(source).items()}
    assert {t["name"]: (t["shape"], t["bytes"]) for t in document["tensors"]} == expected
    planned = json.loads(ok("plan", source, "--scale", "2", "--json").stdout)
    assert [change["name"] for change in planned["changes"]] == [t["name"] for t in document["tensors"]]


def test_a_rescaled_model_shows_its_recipe_and_its_new_sizes(tmp_path):
    source = saved(tmp_path / "m.onnx")
    ok("convert", source, tmp_path / "out.onnx", "--scale-h", "2", "--scale-w", "1.5")
    info = rk.inspect(tmp_path / "out.onnx")
    assert info.recipe.plan.options["scale"] == [2, 1.5] and info.inputs[0].shape == (1, 3, 16, 12)
    assert info.metadata["author"] == "[red]somebody" and info.family == "ONNX graph"
    text = ok("inspect", tmp_path / "out.onnx").stdout
    assert (
        "scale 1.5 in width and 2 in height, method optimal, 2 tensors rescaled" in text
        and "Layers, before -> after:" in text
    )


def test_what_is_listed_needs_no_graph_that_can_be_rescaled(tmp_path):
    """Constants inside nodes, packed and text tensors, an output of no rank, an input that is no tensor."""
    value = numpy_helper.from_array(np.ones((2, 3), np.float16))
    nodes = [
        helper.make_node("Constant", [], ["c\x1b[31m"], value=value),
        helper.make_node("SequenceAt", ["s", "i"], ["y"]),
    ]
    given = [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)]
    words = TensorProto(name="words", data_type=TensorProto.STRING, dims=[2], string_data=[b"ab", b"c"])
    packed = helper.make_tensor("packed", TensorProto.INT4, [3], [1, 2, 3])
    whole = numpy_helper.from_array(np.array(0), "i")
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", given, result, [words, packed, whole])
    source = saved(tmp_path / "m.onnx", helper.make_model(graph))
    info = rk.inspect(source)
    assert {t.name: (t.dtype, t.shape, t.nbytes) for t in info.tensors} == {
        "words": ("STRING", (2,), 3), "packed": ("INT4", (3,), 2), "i": ("I64", (), 8),
        "c\x1b[31m": ("F16", (2, 3), 12),
    }  # fmt: skip
    assert (info.inputs[0].dtype, info.inputs[0].shape) == ("sequence", None) and info.outputs[0].shape is None
    text = ok("inspect", source, "--tensors").stdout
    assert "\x1b" not in text and "s: sequence of any shape" in text


def test_inspect_and_plan_do_not_read_the_weights_that_lie_beside_a_model(tmp_path):
    whole, apart = saved(tmp_path / "whole.onnx"), saved(tmp_path / "m.onnx", beside="m.onnx_data", least=512)
    (tmp_path / "m.onnx_data").unlink()
    one, two = (json.loads(ok("inspect", path, "--json").stdout) for path in (whole, apart))
    assert one["tensors"] == two["tensors"]
    one, two = (json.loads(ok("plan", path, "--scale", "2", "--json").stdout) for path in (whole, apart))
    assert one == two
    said = refused("convert", apart, tmp_path / "out.onnx", "--scale", "2")
    assert "m.onnx: its tensors lie in m.onnx_data, which is missing" in said and not (tmp_path / "out.onnx").exists()


def test_links_of_a_cache_are_followed_and_others_are_not(tmp_path):
    """snapshots/<commit>/file -> blobs/<hash>: `onnx.load` refuses such links."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / ("a" * 40) / "onnx"
    saved(blobs / "one", beside="two", least=512)
    proto = onnx.load(blobs / "one", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "m.onnx_data" if entry.key == "location" else entry.value
    (blobs / "one").write_bytes(proto.SerializeToString())
    snapshot.mkdir(parents=True)
    (snapshot / "m.onnx").symlink_to("../../../blobs/one")
    (snapshot / "m.onnx_data").symlink_to("../../../blobs/two")
    ok("convert", snapshot / "m.onnx", tmp_path / "out.onnx", "--scale", "2")
    ok("convert", saved(tmp_path / "whole.onnx"), tmp_path / "other.onnx", "--scale", "2")
    assert np.array_equal(answers(tmp_path / "out.onnx"), answers(tmp_path / "other.onnx"))
    (snapshot / "m.onnx_data").unlink()
    (tmp_path / "secret").write_bytes((blobs / "two").read_bytes())
    (snapshot / "m.onnx_data").symlink_to(tmp_path / "secret")
    assert "leads out of its folder" in refused("convert", snapshot / "m.onnx", tmp_path / "no.onnx", "--scale", "2")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda told: told.update(offset="17"), "cut short"),
        (lambda told: told.update(length="3"), "its data is 3 bytes long, but its shape needs 864"),
        (lambda told: told.update(offset="-1"), "not a position in a file"),
        (lambda told: told.update(offset="9" * 30), "not a position in a file"),
        (lambda told: told.update(location="../w.bin"), "not a file below the model's folder"),
        (lambda told: told.update(location="C:\\w.bin"), "not a file below the model's folder"),
        (lambda told: told.pop("location"), "not a file below the model's folder"),
    ],
)
def test_data_that_does_not_fit_is_refused_by_the_tensor_s_name(tmp_path, change, said):
    source = outside(tmp_path / "m.onnx", change)
    text = refused("convert", source, tmp_path / "out.onnx", "--scale", "2")
    assert said in text and "first.weight" in text and not (tmp_path / "out.onnx").exists()


def test_data_at_an_offset_is_the_tensor_s(tmp_path):
    source = outside(tmp_path / "m.onnx", lambda told: None)
    ok("convert", source, tmp_path / "out.onnx", "--scale", "2")
    ok("convert", saved(tmp_path / "whole.onnx"), tmp_path / "other.onnx", "--scale", "2")
    assert np.array_equal(answers(tmp_path / "out.onnx"), answers(tmp_path / "other.onnx"))


def test_a_model_too_large_for_one_file_is_refused_before_its_data_is_looked_for(tmp_path):
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 26, 3, 3, 3]
    made.graph.initializer[1].CopyFrom(TensorProto(name="first.bias", data_type=1, dims=[1 << 26]))
    for each in made.graph.initializer[:2]:
        each.data_location = TensorProto.EXTERNAL
        entry = each.external_data.add()
        entry.key, entry.value = "location", "w.bin"
    del made.graph.node[1:]
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    source = saved(tmp_path / "m.onnx", made)
    text = refused("convert", source, tmp_path / "out.onnx", "--scale", "2")
    assert "do not fit into one ONNX file (2 GiB)" in text


def test_a_folder_s_preprocessor_gets_the_new_size_and_its_config_a_note(tmp_path):
    saved(tmp_path / "in" / "model.onnx")
    config = {"model_type": "resnet", "architectures": ["ResNetModel"], "transformers_version": "5"}
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    (tmp_path / "in" / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 8}}))
    ran = ok("convert", tmp_path / "in", tmp_path / "out", "--scale", "2")
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text()) == {"size": {"shortest_edge": 16}}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config
    said = " ".join(ran.stderr.split())
    assert "config.json is left as it is" in said and "the graph says its new sizes itself" in said
    assert answers(tmp_path / "out" / "model.onnx").shape == (1, 4, 8, 8)
    text = refused("convert", tmp_path / "in", tmp_path / "in" / "inside", "--scale", "2")
    assert "inside" in text and not (tmp_path / "in" / "inside").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and exchanges two folders in one step")
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one_wherever_the_run_is_killed(every, tmp_path):
    saved(tmp_path / "in" / "onnx" / "model.onnx")
    for name in ("config.json", "onnx/labels.json"):
        (tmp_path / "in" / name).write_text("{}")
    for name, scale in (("old", 3), ("new", 2)):
        rk.convert(tmp_path / "in", tmp_path / name, scale=scale)
    old, new = files(tmp_path / "old"), files(tmp_path / "new")
    target, seen = tmp_path / "where" / "out", []
    with killer() as server:
        for step in range(0, 1000, every):
            shutil.rmtree(target.parent, ignore_errors=True)
            shutil.copytree(tmp_path / "old", target)
            killed = server.run(step, tmp_path / "in", target, scale=2, force=True)
            seen.append(files(target) == new)
            assert seen[-1] or files(target) == old
            if not killed:
                break
            if step % 3 == 0:
                rk.convert(tmp_path / "in", target, scale=2, force=True)
                assert files(target) == new and [path.name for path in target.parent.iterdir()] == ["out"]
                assert not [path for path in target.rglob("*") if ".rekernel" in path.name]
    assert seen == sorted(seen) and seen[0] is False and seen[-1] is True and len(seen) > 10 // every


def test_a_folder_whose_data_is_called_bin_is_that_of_its_model(tmp_path):
    source = saved(tmp_path / "in" / "model.onnx", beside="weights.bin", least=1)
    assert ok("inspect", tmp_path / "in").stdout.startswith(f"{source.parent}: ONNX model")
    ok("convert", tmp_path / "in", tmp_path / "out", "--scale", "2")
    assert answers(tmp_path / "out" / "model.onnx").shape == (1, 4, 8, 8)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    (tmp_path / "in" / "pytorch_model.bin").write_bytes(b"PK")  # another model's, which the graph does not name
    assert "pickles" in refused("convert", tmp_path / "in", tmp_path / "other", "--scale", "2")


def test_a_file_goes_into_a_folder_under_its_own_name(tmp_path):
    source = saved(tmp_path / "m.onnx")
    ok("convert", source, f"{tmp_path}/new/", "--scale", "2")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.onnx"]
    before = source.read_bytes()
    said = refused("convert", source, tmp_path, "--scale", "2", "--force")
    assert "is also an input file" in said and source.read_bytes() == before


def test_names_that_are_no_text_are_refused(tmp_path):
    """Protobuf hands such names on as bytes."""
    source = saved(tmp_path / "m.onnx")
    source.write_bytes(source.read_bytes().replace(b"first.weight", b"first\xffweight"))
    for args in (("inspect", source), ("convert", source, tmp_path / "out.onnx", "--scale", "2")):
        assert "a name in it is not UTF-8 text" in refused(*args)


@pytest.mark.parametrize("beside", ["", "w.dat"])
def test_damaged_files_are_refused_or_converted_and_never_a_traceback(tmp_path, beside):
    rng = np.random.default_rng(0)
    source = saved(tmp_path / "m.onnx", beside=beside, least=0)
    whole = source.read_bytes()
    refusals = 0
    for round in range(120):
        data = bytearray(whole)
        for place in rng.integers(0, 600, rng.integers(1, 5)):  # the graph; weights follow
            data[place] = rng.integers(256)
        source.write_bytes(data[: rng.integers(len(data))] if round % 5 == 0 else data)
        for work in (lambda: rk.inspect(source), lambda: rk.convert(source, tmp_path / "o.onnx", scale=2, force=True)):
            try:
                work()
            except rk.RekernelError:
                refusals += 1
    assert refusals > 60


def test_a_plan_is_carried_out_with_the_modes_and_operators_that_it_lists(tmp_path):
    source = saved(tmp_path / "m.onnx")
    hints, overrides = rk.Hints(mode={"second.weight": "absorb"}), {"first.weight": {"method": "cubic", "taps": 7}}
    report = rk.convert(source, tmp_path / "direct.onnx", scale=2, hints=hints, overrides=overrides)
    plan = rk.Plan.from_json(report.plans[""].to_json())
    assert (plan.origin, plan.scale) == ("onnx", 2.0)
    assert {c.name: c.mode for c in plan.changed} == {"first.weight": "supersample", "second.weight": "absorb"}
    rk.convert(source, tmp_path / "planned.onnx", plan=plan)
    assert (tmp_path / "planned.onnx").read_bytes() == (tmp_path / "direct.onnx").read_bytes()
    other = tmp_path / "other.onnx"
    with pytest.raises(rk.RekernelError, match="this plan was not made for an ONNX model"):
        rk.convert(source, other, plan=replace(plan, origin="names"))
    with pytest.raises(rk.RekernelError, match="mode magic is not one of supersample, absorb"):
        rk.convert(source, other, scale=2, hints=rk.Hints(mode={"second.weight": "magic"}))


@pytest.mark.parametrize("command", [["inspect"], ["plan", "--scale", "2"], ["convert", "--scale", "2"]])
def test_without_onnx_one_line_says_how_to_get_it(command, tmp_path):
    """A module of that name that cannot be imported comes first on the path: what a machine without it looks like."""
    model = saved(tmp_path / "m.onnx")
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "onnx.py").write_text("raise ImportError('no such module')\n")
    root = Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (tmp_path / "shadow", root / "src", root / "cli")))
    target = [str(tmp_path / "out.onnx")] if command[0] == "convert" else []
    words = [sys.executable, "-m", "rekernel_cli", command[0], str(model), *target, *command[1:]]
    ran = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr == "Error: an ONNX model needs the onnx package: pip install onnx\n"
