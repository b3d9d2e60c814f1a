"""ONNX models on the Hub: looked at, planned, converted, published, and run by the lines of their card."""

import hashlib
import re

import numpy as np
import pytest

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from ..onnx.models import initializers, saved  # noqa: E402 - after onnx is known to be there
from .conftest import card, checkpoint  # noqa: E402

DATA = "model.onnx_data"
IMAGE = np.linspace(-1, 1, 3 * 256, dtype=np.float32).reshape(1, 3, 16, 16)


@pytest.fixture
def parts(tmp_path):
    """A model whose large weights lie in a file beside it, as the Hub has them, by name."""
    saved(tmp_path / "local" / "model.onnx", beside=DATA, least=512)
    return {name: (tmp_path / "local" / name).read_bytes() for name in ("model.onnx", DATA)}


def answers(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": IMAGE})[0]


def fetched(hub):
    """Names of the files that were downloaded."""
    asked = [*hub.asked("GET", "/resolve/"), *hub.asked("HEAD", "/resolve/")]
    return {seen.path.partition("/resolve/")[2].partition("/")[2] for seen in asked}


def ok(ran):
    assert ran.code == 0, ran.stderr
    return ran


def test_inspect_and_plan_say_of_an_address_what_they_say_of_the_file_without_the_data_beside_it(
    hub, rekernel, name, parts
):
    hub.add(f"org/{name}", {f"onnx/{file}": data for file, data in parts.items()})
    address = f"hf://org/{name}@main/onnx/model.onnx"
    there, here = (rekernel("inspect", s, "--json").json for s in (address, "local/model.onnx"))
    assert there.pop("path") == address and here.pop("path") == "local/model.onnx"
    assert there == here and there["bytes"] == 2104
    plan = rekernel("plan", address, "--scale", 2, "--json").json
    assert plan == rekernel("plan", "local/model.onnx", "--scale", 2, "--json").json
    there, here = (ok(rekernel("plan", s, "--scale", 2)).stdout for s in (address, "local/model.onnx"))
    assert there.startswith(f"{address}: ONNX graph; scale 2") and there.removeprefix(address) == here[16:]
    assert fetched(hub) == {"onnx/model.onnx"}


def test_data_beside_a_model_is_fetched_to_plan_where_its_values_decide(hub, rekernel, name, tmp_path):
    saved(tmp_path / "all" / "model.onnx", beside="weights.dat", least=0)
    hub.add(f"org/{name}", {file: (tmp_path / "all" / file).read_bytes() for file in ("model.onnx", "weights.dat")})
    address = f"hf://org/{name}/model.onnx"
    ok(rekernel("inspect", address))
    assert fetched(hub) == {"model.onnx"}
    plan = rekernel("plan", address, "--scale", 2, "--json").json
    assert fetched(hub) == {"model.onnx", "weights.dat"}
    assert {change["name"] for change in plan["changes"] if change["kind"] != "keep"} == {
        "first.weight", "second.weight",
    }  # fmt: skip


def test_convert_of_an_address_equals_convert_of_the_file_and_knows_where_it_came_from(
    hub, rekernel, name, parts, tmp_path
):
    repo = hub.add(f"org/{name}", parts | {"config.json": b"{}"})
    ran = ok(rekernel("convert", f"hf://org/{name}/model.onnx", "there.onnx", "--scale", 2))
    assert "onnxruntime.InferenceSession('there.onnx')" in ran.stdout and "safetensors" not in ran.stdout
    ok(rekernel("convert", "local/model.onnx", "here.onnx", "--scale", 2))
    one, two = initializers(tmp_path / "there.onnx"), initializers(tmp_path / "here.onnx")
    assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)
    assert np.array_equal(answers(tmp_path / "there.onnx"), answers(tmp_path / "here.onnx"))
    assert answers(tmp_path / "there.onnx").shape == (1, 4, 8, 8)
    assert fetched(hub) == set(parts)
    assert rekernel("inspect", "there.onnx", "--json").json["recipe"]["sources"] == [
        {"repo": f"org/{name}", "commit": repo.head.sha, "path": file, "bytes": len(parts[file]),
         "sha256": hashlib.sha256(parts[file]).hexdigest()} for file in ("model.onnx", DATA)
    ]  # fmt: skip


def test_a_repository_whose_only_weights_are_one_model_becomes_a_folder(hub, rekernel, name, parts, tmp_path):
    files = {f"onnx/{file}": data for file, data in parts.items()}
    beside = {"config.json": b'{"a": 1}', "README.md": card(license="mit")}
    hub.add(f"org/{name}", files | beside | {".gitattributes": b"x"})
    assert rekernel("inspect", f"hf://org/{name}", "--json").json["path"] == f"hf://org/{name}/onnx/model.onnx"
    (tmp_path / "plan.json").write_text(rekernel("plan", f"hf://org/{name}", "--scale", 2, "--json").stdout)
    ok(rekernel("convert", f"hf://org/{name}", "out", "--plan", "plan.json"))
    there = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert there == {"onnx/model.onnx", *beside}
    assert all((tmp_path / "out" / file).read_bytes() == data for file, data in beside.items())
    assert answers(tmp_path / "out" / "onnx" / "model.onnx").shape == (1, 4, 8, 8)
    again = rekernel("convert", f"hf://org/{name}", "out", "--scale", 2).line
    assert "out: exists already and is not empty (README.md, config.json, onnx); pass a new folder, or --force" in again
    ok(rekernel("convert", f"hf://org/{name}/onnx", "flat", "--scale", 2, "--force"))
    assert [path.name for path in (tmp_path / "flat").iterdir()] == ["model.onnx"]


def test_of_several_models_one_has_to_be_named_and_safetensors_come_first(hub, rekernel, name, parts, tmp_path):
    onnx = {f"onnx/{file}": data for file, data in parts.items()} | {
        "onnx/model_q8.onnx": parts["model.onnx"], "onnx/model_q8.onnx_data_1": b"x",
    }  # fmt: skip
    hub.add(f"org/{name}", onnx | {"config.json": b"{}"})
    said = rekernel("plan", f"hf://org/{name}", "--scale", 2).line
    assert said == f"hf://org/{name}/onnx: has several ONNX models (model.onnx, model_q8.onnx); pass the path of one."
    hub.add(f"org/{name}-both", onnx | {"model.safetensors": checkpoint()})
    ok(rekernel("convert", f"hf://org/{name}-both", "out", "--scale", 2))
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["model.safetensors"]
    assert not [file for file in fetched(hub) if file.startswith("onnx/")], "weights of another format were downloaded"


def test_without_a_connection_the_cached_graph_and_data_are_enough(hub, rekernel, offline, name, parts, tmp_path):
    hub.add(f"org/{name}", parts)
    address = f"hf://org/{name}/model.onnx"
    ok(rekernel("inspect", address))
    hub.seen.clear()
    ok(offline("plan", address, "--scale", 2))
    said = offline("convert", address, "out.onnx", "--scale", 2).line
    assert said.startswith(address) and "HF_HUB_OFFLINE is set" in said and hub.seen == []
    ok(rekernel("convert", address, "one.onnx", "--scale", 2))
    ok(offline("convert", address, "two.onnx", "--scale", 2))
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_what_fails_names_the_address(hub, rekernel, name, parts):
    hub.add(f"me/{name}", {"model.onnx": parts["model.onnx"], "bad.onnx": b"\x0f" * 40}, private=True)
    said = rekernel("convert", f"hf://me/{name}/model.onnx", "out.onnx", "--scale", 2).line
    assert said == (
        f"hf://me/{name}/model.onnx: its tensors lie in {DATA}, which is missing; put it beside it"
    )  # fmt: skip
    assert rekernel("inspect", f"hf://me/{name}/bad.onnx").line.startswith(
        f"hf://me/{name}/bad.onnx: not a readable ONNX model"
    )
    said = rekernel("inspect", f"hf://me/{name}/none.onnx").line
    assert said.startswith(f"hf://me/{name}/none.onnx: this repository does not have such a file")
    said = rekernel("plan", f"hf://me/{name}/model.onnx", "--scale", 2, token=None).line
    assert said.startswith(f"hf://me/{name}/model.onnx: no such model repository, or it is private")


def pasted(hub, repo):
    """The card's lines, and its last one, a comment, as code."""
    text = hub.repos[repo].head.files["README.md"].data.decode()
    [code] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert "\n# answers = " in code
    images = "import numpy\nimages = numpy.linspace(-1, 1, 768, dtype='float32').reshape(1, 3, 16, 16)\n"
    return images + code.replace("\n# answers", "\nanswers") + "numpy.save('answers.npy', answers[0])\n"


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_is_pushed_runs_by_the_lines_of_its_card(hub, rekernel, name, parts, tmp_path, place):
    hub.add(f"org/{name}", {f"onnx/{file}": data for file, data in parts.items()} | {"README.md": card(license="mit")})
    source, out = ("/onnx/model.onnx", "out.onnx") if place == "file" else ("", "out")
    ok(rekernel("convert", f"hf://org/{name}{source}", out, "--scale", 2))
    if place == "folder":
        (tmp_path / "out" / "onnx" / "notes.txt").write_text("x")
    report = rekernel("push", out, f"me/{name}", "--json").json
    files = hub.repos[f"me/{name}"].head.files
    written = "out.onnx" if place == "file" else "onnx/model.onnx"
    assert set(files) == {written, "README.md", ".gitattributes"}
    assert report["left"] == ([] if place == "file" else [
        {"name": "onnx/notes.txt", "reason": "in a folder that is not part of the model"}
    ])  # fmt: skip
    local = tmp_path / "out.onnx" if place == "file" else tmp_path / "out" / "onnx" / "model.onnx"
    assert files[written].data == local.read_bytes()
    text = files["README.md"].data.decode()
    assert "library_name: onnx\n" in text and f"base_model: org/{name}\n" in text and "license: mit\n" in text
    assert "rekernel verify" not in text and "With onnxruntime and huggingface_hub." in text
    assert report["message"] == f"Rescale org/{name} by 2 (optimal, gain dc, 2 tensors)"
    said = ok(rekernel(python=pasted(hub, f"me/{name}"))).stdout
    assert said == "[('x', [1, 3, 16, 16])]\n"
    assert np.array_equal(np.load(tmp_path / "answers.npy"), answers(local))


def test_data_beside_a_pushed_model_goes_with_it(hub, rekernel, name, tmp_path):
    """A converted model that another tool saved again, its tensors in a file of their own."""
    import onnx

    saved(tmp_path / "in.onnx")
    ok(rekernel("convert", "in.onnx", "one.onnx", "--scale", 2))
    expected = answers(tmp_path / "one.onnx")
    saved(tmp_path / "out" / "net.onnx", onnx.load(tmp_path / "one.onnx"), beside="net.onnx_data")
    ok(rekernel("push", "out", f"me/{name}"))
    assert {"net.onnx", "net.onnx_data"} < set(hub.repos[f"me/{name}"].head.files)
    ok(rekernel(python=pasted(hub, f"me/{name}")))
    assert np.array_equal(np.load(tmp_path / "answers.npy"), expected)


def test_what_was_not_converted_is_not_pushed(hub, rekernel, name, parts):
    for source in ("local", "local/model.onnx"):
        assert "holds no recipe" in rekernel("push", source, f"me/{name}").line
    assert hub.seen == []


def test_a_plan_file_and_a_rehearsal_download_the_graph_alone(hub, rekernel, name, parts, tmp_path):
    hub.add(f"org/{name}", {"model.onnx": parts["model.onnx"], DATA: parts[DATA]})
    address = f"hf://org/{name}/model.onnx"
    (tmp_path / "plan.json").write_text(rekernel("plan", address, "--scale", 2, "--json").stdout)
    report = rekernel("convert", address, "out.onnx", "--plan", "plan.json", "--dry-run", "--json").json
    assert report["files"] == [{"name": "model.onnx", "bytes": report["output_bytes"]}]
    assert not (tmp_path / "out.onnx").exists() and fetched(hub) == {"model.onnx"}
    ok(rekernel("convert", address, "out.onnx", "--plan", "plan.json"))
    assert answers(tmp_path / "out.onnx").shape == (1, 4, 8, 8)
