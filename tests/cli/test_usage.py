"""Wrong usage ends with exit code 2 and says what to do, a failure with 1 and one line; a bug asks to be reported."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rekernel import RekernelError

CONFLICTS = [
    ([], "--scale 2"),
    (["--scale", "2", "--from", "8x8", "--to", "16x16"], "give only one of them"),
    (["--from", "8x8"], "needs --to"),
    (["--scale", "2", "--scale-w", "2"], "give only one of them"),
    (["--scale-w", "2"], "--scale-w and --scale-h go together"),
    (["--scale", "1024x768"], "did you mean --to 1024x768?"),
    (["--scale", "2x1.5"], "--scale-w 2 --scale-h 1.5"),
    (["--scale", "-1"], "'-1' is not a scale"),
    (["--scale", "2", "--method", "magic"], "'magic' is not a method"),
    (["--scale", "2", "--gain", "loud"], "'loud'"),
    (["--scale", "2", "--taps", "many"], "'many'"),
    (["--scale", "2", "--stride", "conv1=2", "--stride", "conv1=3"], "given twice"),
    (["--scale", "2", "--set", "*:taps=3", "--set", "*:taps=5"], "given twice"),
    (["--scale", "2", "--mode", "conv1=sideways"], "absorb"),
    (["--scale", "2", "--mode", "sideways"], "auto, supersample, absorb"),
    (["--scale", "2", "--mode", "absorb", "--mode", "supersample"], "given twice"),
    (["--scale", "2", "--reading-filter", "dilate"], "'dilate'"),
    (["--scale", "2", "--linear-grid", "fc=4x4"], "512,7,7"),
    (["--scale", "2", "--bogus"], "--bogus"),
]


@pytest.mark.parametrize(("options", "says"), CONFLICTS)
def test_wrong_usage_is_exit_code_2(run, checkpoint, tmp_path, options, says):
    for words in (["plan", checkpoint], ["convert", checkpoint, tmp_path / "out.safetensors"]):
        result = run(*words, *options)
        assert result.exit_code == 2
        assert says in " ".join(result.stderr.split())
        assert result.stdout == ""
        assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--scale", "2"],
        ["--method", "cubic"],
        ["--gain", "dc"],
        ["--exclude", "conv1"],
        ["--from", "8x8"],
        ["--stride", "conv1=2"],
        ["--set", "conv1:taps=7"],
    ],
)
def test_a_plan_excludes_the_options_that_make_one(run, checkpoint, tmp_path, options):
    plan = tmp_path / "plan.json"
    plan.write_text(run("plan", checkpoint, "--scale", 2, "--json").stdout)
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--plan", plan, *options)
    assert result.exit_code == 2
    assert f"{options[0]}: --plan already sets this" in result.stderr
    assert run("convert", checkpoint, tmp_path / "out.safetensors", "--plan", plan, "--allow-cast").exit_code == 0


def test_wrong_values_for_the_output_are_usage_errors(run, checkpoint, tmp_path):
    for options in (["--dtype", "int8"], ["--max-shard-size", "5 parsecs"], ["--plan", tmp_path / "none.json"]):
        result = run("convert", checkpoint, tmp_path / "out.safetensors", "--scale", 2, *options)
        assert result.exit_code == 2 and str(options[0]) in result.stderr


@pytest.mark.parametrize("words", [[], ["inspect"], ["convert", "a"], ["bogus"], ["plan", "a", "b"]])
def test_missing_and_surplus_words_are_usage_errors(run, words):
    assert run(*words).exit_code == 2


FAILURES = [
    (["inspect", "none.safetensors"], "no such file"),
    (["plan", "none.safetensors", "--scale", "2"], "no such file"),
    (["plan", "{in}", "--scale", "2", "--exclude", "conv9"], "--exclude: pattern conv9 matches no tensor"),
    (["plan", "{in}", "--scale", "2", "--set", "conv9:taps=3"], "--set: pattern conv9 matches no tensor"),
    (["plan", "{in}", "--scale", "2", "--linear-grid", "fc9=3,2,2"], "--linear-grid: pattern fc9 matches no tensor"),
    (["plan", "{in}", "--scale", "2", "--preset", "inner"], "preset inner is unknown"),
    (["plan", "{in}", "--scale", "2", "--mode", "absorb", "--exclude", "conv1"], "--mode NAME=absorb"),
    (["convert", "{in}", "{in}", "--scale", "2"], "{in}"),
    (["convert", "{in}", "out.bin", "--scale", "2"], "ends in .safetensors"),
    (["convert", "{in}", "out.safetensors", "--plan", "{in}"], "--plan"),
    (["inspect", "{in}/x"], ""),
    (["plan", "{in}", "--scale", "2", "--component", "unet"], "component"),
]


@pytest.mark.parametrize(("words", "says"), FAILURES)
def test_a_failure_is_one_line_and_exit_code_1(program, checkpoint, words, says):
    done = program(*(word.format(**{"in": checkpoint}) for word in words))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and says.format(**{"in": checkpoint}) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--dtype F16", "--max-shard-size 5GB", "--resume", "--component unet"])
def test_what_an_onnx_model_cannot_have_is_named_as_it_was_typed(run, tmp_path, option):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    result = run("convert", tmp_path / "m.onnx", tmp_path / "out.onnx", "--scale", "2", *option.split())
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith(f"Error: {option.split()[0]} is for checkpoints")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/x/\x1b[2Jy"), "Error: /x/\\x1b[2Jy: No space left on device."),
        (PermissionError(13, "Permission denied", b"/x"), "Error: /x: Permission denied."),
        (MemoryError("29 TiB"), "Error: not enough memory (29 TiB)."),
    ],
)
def test_a_refusal_by_the_system_is_one_line(run, checkpoint, monkeypatch, error, line):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("rekernel.inspect", refuse)
    result = run("inspect", checkpoint)
    assert (result.exit_code, result.stderr) == (1, line + "\n")


@pytest.mark.parametrize("error", [ValueError("bug\x1b[2J\nmore"), KeyError("bug"), AssertionError(), RecursionError()])
def test_a_bug_is_one_line_that_asks_to_report_it_and_debug_shows_its_traceback(run, checkpoint, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("rekernel.inspect", fail)
    result = run("inspect", checkpoint)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and result.stderr[:-1].isprintable()
    assert type(error).__name__ in result.stderr and "please report it" in result.stderr
    assert "test_usage.py, line" in result.stderr
    assert run("--debug", "inspect", checkpoint).exception is error


def test_debug_shows_the_traceback_of_a_mistake_too(run, tmp_path):
    assert isinstance(run("--debug", "inspect", tmp_path / "none.safetensors").exception, RekernelError)


def test_ctrl_c_is_exit_code_130(run, checkpoint, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rekernel.convert", stop)
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--scale", 2)
    assert (result.exit_code, result.stderr) == (130, "\nStopped; nothing was left behind.\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".rekernel-journal.json").write_text("{}")
    assert "--resume" in run("convert", checkpoint, tmp_path / "out", "--scale", 2).stderr


def test_a_reader_that_leaves_early_is_no_error_message(tmp_path):
    save_file({f"block.{i}.weight": np.zeros(1, np.float32) for i in range(20_000)}, tmp_path / "many.safetensors")
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'cli'}"}
    for flag in ("--json", "--tensors"):
        words = [sys.executable, "-m", "rekernel_cli", "inspect", str(tmp_path / "many.safetensors"), flag]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
