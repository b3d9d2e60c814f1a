"""The commands on real files: what they write, what goes to which stream, and that names stay harmless."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

import rekernel
from rekernel_cli.tables.plan import print_plan
from rekernel_cli.terminal import byte_progress


def test_convert_writes_what_the_library_writes(run, checkpoint, tmp_path):
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--scale", "2", "--method", "bicubic", "--mode",
                 "supersample")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rekernel.convert(
        checkpoint, tmp_path / "api.safetensors", scale=2, method="bicubic", mode="supersample", exclude=[]
    )
    shapes = {name: w.shape for name, w in load_file(tmp_path / "out.safetensors").items()}
    assert shapes["conv1.weight"] == (8, 3, 11, 11) and shapes["point.weight"] == (16, 16, 1, 1)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "api.safetensors").read_bytes()
    assert "2 tensors rescaled, 3 kept" in result.stdout
    assert "note: " in result.stderr and "note: " not in result.stdout


def test_by_default_a_classifier_absorbs_the_scale_where_it_reads_the_image(run, checkpoint, tmp_path):
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--scale", "2")
    assert result.exit_code == 0, result.stderr
    before, after = load_file(checkpoint), load_file(tmp_path / "out.safetensors")
    assert np.array_equal(after["conv1.weight"], before["conv1.weight"].repeat(2, 2).repeat(2, 3) / 4)
    assert all(np.array_equal(after[name], before[name]) for name in before if name != "conv1.weight")
    assert "1 tensor rescaled, 4 kept" in result.stdout
    shown = run("plan", checkpoint, "--scale", "2").stdout
    assert "method area" in shown and "area 3->6" in shown
    assert "4  the layer that reads the image absorbs the scale, so this tensor stays as it was trained" in shown


def test_every_planning_option_reaches_the_library(run, checkpoint, tmp_path):
    words = ["--from", "8x8", "--to", "16x12", "--method", "cubic", "--taps", "same-extent", "--gain", "ratio",
             "--cubic-a", "-0.75", "--smoothness", "0.5", "--preset", "all", "--include", "conv1", "--exclude", "point",
             "--set", "conv2:method=linear,taps=full", "--linear-grid", "fc=16,4,4", "--order", "channels-last",
             "--stride", "conv1=2", "--dilation", "conv1=2", "--padding", "conv1=1", "--layout", "conv2=OIHW",
             "--mode", "conv2=supersample", "--mode", "supersample", "--reading-filter", "linear",
             "--allow-cast"]  # fmt: skip
    result = run("plan", checkpoint, *words, "--json")
    assert result.exit_code == 0, result.stderr
    plan = rekernel.plan_checkpoint(
        checkpoint, (1.5, 2), method="cubic", taps="same-extent", gain="ratio", a=-0.75, smoothness=0.5, preset="all",
        include=["conv1"], exclude=["point"], overrides={"conv2": {"method": "linear", "taps": "full"}},
        hints=rekernel.Hints(
            linear_grid={"fc": (16, 4, 4)}, order={"*": "channels-last"}, stride={"conv1": 2}, padding={"conv1": 1},
            dilation={"conv1": 2}, layout={"conv2": "OIHW"}, mode={"conv2": "supersample"},
        ), mode="supersample", reading_filter="linear", allow_cast=True,
    )  # fmt: skip
    assert rekernel.Plan.from_json(result.stdout).to_json() == plan.to_json()
    assert plan.options["scale"] == [1.5, 2]


def test_a_plan_file_gives_the_same_bytes(run, checkpoint, tmp_path):
    planned = run("plan", checkpoint, "--scale", "2", "--json")
    assert planned.stderr == ""
    (tmp_path / "plan.json").write_text(planned.stdout)
    run("convert", checkpoint, tmp_path / "a.safetensors", "--scale", "2")
    run("convert", checkpoint, tmp_path / "b.safetensors", "--plan", tmp_path / "plan.json")
    run("convert", checkpoint, tmp_path / "c.safetensors", "--plan", "-", input=planned.stdout)
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b == c


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"schema": "rekernel.plan"}'])
def test_a_file_that_is_no_plan_is_refused(run, checkpoint, tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--plan", tmp_path / "plan.json")
    assert result.exit_code == 1 and "plan" in result.stderr


@pytest.mark.parametrize("extra", [[], ["--plan"]])
def test_a_dry_run_says_the_size_and_writes_nothing(run, checkpoint, tmp_path, extra):
    if extra:
        (tmp_path / "plan.json").write_text(run("plan", checkpoint, "--scale", "2", "--json").stdout)
        extra = ["--plan", tmp_path / "plan.json"]
    words = extra or ["--scale", "2"]
    before = sorted(tmp_path.iterdir())
    target = tmp_path / "out.safetensors"
    result = run("convert", checkpoint, target, *words, "--dry-run", "--dtype", "float16")
    assert result.exit_code == 0 and "conv1.weight" in result.stdout and "nothing was written" in result.stdout
    report = json.loads(run("convert", checkpoint, target, *words, "--dry-run", "--json", "--dtype", "half").stdout)
    assert sorted(tmp_path.iterdir()) == before
    run("convert", checkpoint, target, *words, "--dtype", "F16")
    assert report["output_bytes"] == sum(w.nbytes for w in load_file(target).values())
    assert report["peak_memory"] > 0 and report["dry_run"] is True


def test_json_is_alone_on_stdout(program, checkpoint):
    done = program("convert", checkpoint, "out.safetensors", "--scale", "2", "--json", env={"FORCE_COLOR": "1"})
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["tensors_changed"] == 1 and report["files"][0]["bytes"] > 0
    assert report["plans"][""]["options"]["scale"] == 2


def test_quiet_is_quiet(program, checkpoint):
    done = program("convert", checkpoint, "out.safetensors", "--scale", "2", "--quiet", env={"FORCE_COLOR": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_file_in_the_way_needs_force(run, checkpoint, tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    refused = run("convert", checkpoint, target, "--scale", "2")
    assert refused.exit_code == 1 and "--force" in refused.stderr and target.read_text() == "precious"
    assert run("convert", checkpoint, target, "--scale", "2", "--force").exit_code == 0


def test_shards(run, checkpoint, tmp_path):
    words = ["convert", checkpoint, tmp_path / "out", "--scale", "2", "--max-shard-size", "8kB"]
    assert "5 files" in run(*words).stdout  # 4 shards and the index
    info = rekernel.inspect(tmp_path / "out")
    assert info.kind == "sharded" and len(info.tensors) == 5
    report = json.loads(run(*words, "--force", "--json").stdout)
    assert len(report["files"]) == 5


def test_a_pipeline_is_converted_by_component(run, pipeline, tmp_path):
    shown = run("inspect", pipeline).stdout
    assert "unet" in shown and "vae" in shown and "2 components" in shown
    both = ["--component", "unet", "--component", "vae"]
    planned = run("plan", pipeline, "--scale", "2", *both)
    assert len(re.findall(r"^conv1\.weight ", planned.stdout, re.M)) == 2
    refused = run("plan", pipeline, "--scale", "2", "--json", *both)
    assert refused.exit_code == 2 and "--component" in refused.stderr
    (tmp_path / "plan.json").write_text(run("plan", pipeline, "--scale", "2", "--json").stdout)
    refused = run("convert", pipeline, tmp_path / "x", "--plan", tmp_path / "plan.json", "--dry-run", *both)
    assert refused.exit_code == 2
    dry = run("convert", pipeline, tmp_path / "x", "--plan", tmp_path / "plan.json", "--dry-run", "--json")
    assert [*json.loads(dry.stdout)["plans"]] == ["unet"]
    done = run("convert", pipeline, tmp_path / "out", "--scale", "2", "--json")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "vae" / "config.json").exists()
    assert [*json.loads(done.stdout)["plans"]] == ["unet"]


def test_inspect_tells_what_was_done(run, checkpoint, tmp_path):
    target = tmp_path / "out.safetensors"
    before = run("inspect", checkpoint).stdout
    assert "not rescaled" in before and "F32: 5 tensors" in before and "note: [red]x" in before
    run("convert", checkpoint, target, "--from", "8x8", "--to", "16x12", "--method", "linear", "--mode", "supersample")
    after = run("inspect", target, "--tensors").stdout
    assert "scale 2 in width and 1.5 in height" in after and "method linear" in after and "sha256 " in after
    assert "kernel 3, stride 1, padding 1 -> kernel" in after and "16x16x1x1" in after
    document = json.loads(run("inspect", target, "--json").stdout)
    assert document["recipe"]["plan"]["options"]["scale"] == [1.5, 2]
    assert document["metadata"]["format"] == "pt"
    assert {t["name"]: t["shape"] for t in document["tensors"]}["conv1.bias"] == [8]


@pytest.mark.parametrize("words", [["inspect", "{}"], ["inspect", "{}", "--tensors"], ["inspect", "{}", "--json"],
                                   ["plan", "{}", "--scale", "2"], ["plan", "{}", "--scale", "2", "--json"],
                                   ["plan", "{}", "--scale", "2", "--exclude", "nothing"],
                                   ["convert", "{}", "out.safetensors", "--scale", "2", "--json"]])  # fmt: skip
def test_hostile_names_are_printed_inert(program, hostile, words):
    done = program(*(word.format(hostile) for word in words))
    text = done.stdout + done.stderr
    assert done.returncode == ("nothing" in words), done.stderr
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "Traceback" not in text
    if "--json" in words:
        json.loads(done.stdout)
    elif "--tensors" in words or words[-1] == "2":
        assert "[red]bold[/red].weight" in text and "a\\x1b[31mred\\nline.weight" in text
        assert ":boom:\\u200b.weight" in text and "b\\u202eidi:=x.weight" in text


def test_a_hostile_plan_file_is_printed_inert(run, checkpoint, tmp_path):
    plan = json.loads(run("plan", checkpoint, "--scale", "2", "--json").stdout)
    plan["family"] = plan["options"]["selection"] = "\x1b[2J[red]"
    plan["warnings"] = ["\x1b[31m\n\u202e[b]"]
    for change in plan["changes"]:
        change["reason"] = "\x1b]0;owned\x07"
    plan["options"]["scale"] = ["\x1b[1m", 2]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = ["convert", checkpoint, tmp_path / "out.safetensors", "--plan", tmp_path / "plan.json"]
    for extra in (["--dry-run"], []):
        result = run(*words, *extra)
        assert result.exit_code == 0, result.stderr
        assert all(c.isprintable() or c == "\n" for c in result.stdout + result.stderr)
    shown = run("inspect", tmp_path / "out.safetensors")
    assert shown.exit_code == 0 and all(c.isprintable() or c == "\n" for c in shown.stdout)


def test_lines_are_neither_broken_nor_padded_in_a_pipe(program, checkpoint):
    how = ("--mode", "supersample", "--method", "optimal")
    done = program("plan", checkpoint, "--scale", "2", *how, env={"COLUMNS": "40"})
    assert re.search(r"^conv1\.weight +8x3x3x3 +8x3x5x5 +optimal 3->5 +dc +0$", done.stdout, re.M)
    assert not re.search(r" $", done.stdout, re.M)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_s_width_is_respected_and_names_stay_legible(tmp_path, width):
    import io

    from rich.console import Console
    from safetensors.numpy import save_file

    name = "down_blocks.2.attentions.1.transformer_blocks.0.some_layer.conv_shortcut.weight"
    save_file({name: np.ones((1280, 4, 3, 3), np.float16)}, tmp_path / "long.safetensors")
    target = Console(file=io.StringIO(), width=width, force_terminal=True, markup=False, color_system=None)
    print_plan(target, rekernel.plan_checkpoint(tmp_path / "long.safetensors", 2), "long")
    text = target.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    first_column = "".join(re.findall(r"^(?: {2})?([\w.]+)(?= {2}|$)", text, re.M))
    assert name in first_column.replace(" ", "")


def test_progress_goes_to_a_terminal_on_stderr_and_nowhere_else(capsys, monkeypatch):
    with byte_progress("x", quiet=False) as progress:
        assert progress is None  # no terminal
    monkeypatch.setenv("FORCE_COLOR", "1")
    with byte_progress("x", quiet=True) as progress:
        assert progress is None
    with byte_progress("converting", quiet=False) as progress:
        progress(500_000, 1_000_000)
    streams = capsys.readouterr()
    assert streams.out == "" and "0.5/1.0 MB" in streams.err
