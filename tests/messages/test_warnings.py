"""Notes in Python: warnings in words of Python, at the line that called, once a call, and not twice by the command."""

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

import rekernel as rk
from rekernel.errors import Option
from rekernel.messages.note import Note
from rekernel.messages.warn import MOST, tell
from rekernel_cli.main import main

STRIDED = {"stem.weight": (8, 5, 3, 3), "down.weight": (8, 8, 4, 4), "body.weight": (8, 8, 3, 3), "fc.weight": (10, 8)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "in.safetensors"
    tensors = {name: np.ones(shape, np.float32) for name, shape in STRIDED.items()}
    safetensors.numpy.save_file(tensors, path)
    return path


def told(call):
    """What a call warns of, with the line of each warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    assert all(each.category is rk.RekernelWarning for each in caught)
    return result, caught


CALLS = {
    "plan_checkpoint": lambda file: rk.plan_checkpoint(file, 2).warnings,
    "plan_source": lambda file: rk.plan_source(file, 2)[""].warnings,
    "convert": lambda file: rk.convert(file, file.with_name("out.safetensors"), scale=2).plans[""].warnings,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_note_is_a_warning_once_at_the_line_that_called_in_words_of_python(call, file):
    notes, caught = told(lambda: call(file))
    said = [str(each.message) for each in caught]
    assert said == list(notes) and len(said) == len(set(said)) >= 2
    assert {each.filename for each in caught} == {__file__}
    assert {each.lineno for each in caught} == {inspect.getsourcelines(call)[1]}
    assert any("hints=Hints(stride={'down': N}, padding={'down': P})" in note for note in said)
    assert any("hints=Hints(stride={'NAME': 2})" in note for note in said)
    assert not any("--" in note for note in said)


def test_the_command_says_each_note_once_in_its_own_words(file):
    for arguments in (
        ["plan", str(file), "--scale", "2"],
        ["convert", str(file), f"{file}.2.safetensors", "--scale", "2"],
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ran = CliRunner().invoke(main, [*arguments, "--scale", "2"])
        assert ran.exit_code == 0 and not [each for each in caught if each.category is rk.RekernelWarning]
        assert ran.output.count("has an even kernel, 4x4") == 1 and ran.output.count("stride 1 and 'same' padding") == 1
        assert "--stride down=N and --padding down=P" in ran.output and "--stride NAME=2" in ran.output
        assert "Hints(" not in ran.output


def test_the_command_shows_a_note_that_it_does_not_print_itself(monkeypatch):
    import rekernel.offline

    def noted(*args, **kwargs):
        tell([Note("odd; pass ", Option("a=1", "--a 1"))])
        raise rk.RekernelError("stop")

    monkeypatch.setattr(rekernel.offline, "estimate", noted)
    monkeypatch.setattr(rekernel.offline, "plan_source", lambda *args, **kwargs: {})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = CliRunner().invoke(main, ["plan", "x", "--scale", "2"])
    assert "note: odd; pass --a 1" in ran.stderr


def test_a_filter_makes_notes_errors_before_a_file_is_written(file, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=rk.RekernelWarning)
        with pytest.raises(rk.RekernelWarning, match=r"hints=Hints"):
            rk.convert(file, tmp_path / "out.safetensors", scale=2)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_plan_that_was_told_is_not_told_again(file, tmp_path):
    plan, _ = told(lambda: rk.plan_checkpoint(file, 2))
    _, caught = told(lambda: rk.convert(file, tmp_path / "out.safetensors", plan=plan))
    assert caught == []


def test_a_plan_in_a_file_keeps_both_words_of_its_notes(file):
    plan = rk.plan_checkpoint(file, 2)
    again = rk.Plan.from_json(plan.to_json())
    assert again == plan
    assert [note.on_command_line() for note in again.warnings if isinstance(note, Note)] == [
        note.on_command_line() for note in plan.warnings if isinstance(note, Note)
    ]
    [stored] = [note for note in json.loads(plan.to_json())["warnings"] if "even kernel" in str(note)]
    assert set(stored) == {"python", "command"} and "--stride down=N" in stored["command"]


def test_plain_texts_of_earlier_files_are_read_as_they_are():
    plan = rk.Plan((), warnings=("pass --stride NAME=2",))
    assert rk.Plan.from_json(plan.to_json()).warnings == ("pass --stride NAME=2",)


def test_of_many_notes_the_last_warning_says_how_many_more_there_are():
    _, caught = told(lambda: tell((f"note {i}" for i in range(MOST + 3)), "plan.warnings has them all"))
    assert len(caught) == MOST + 1
    assert str(caught[-1].message) == "and 3 more notes: plan.warnings has them all"


def test_a_note_from_a_file_cannot_control_the_terminal():
    _, caught = told(lambda: tell(["a\x1b[2Jb", Note("c", Option("\x07", "\x07"))]))
    assert [str(each.message) for each in caught] == ["a\\x1b[2Jb", "c\\x07"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"scale": 1}, "scale is 1"),
        ({"scale": 2, "a": -0.75}, "a=-0.75 has no effect.*method='cubic'"),
        ({"scale": 2, "method": "linear", "smoothness": 0.1}, "smoothness=0.1 has no effect"),
    ],
)
def test_an_argument_without_effect_on_a_weight_is_noted(arguments, named):
    with pytest.warns(rk.RekernelWarning, match=named):
        rk.resample_conv(np.ones((4, 4, 3, 3), np.float32), **arguments)


def test_arguments_with_an_effect_are_not_noted():
    w = np.ones((4, 4, 3, 3), np.float32)
    calls = [
        (2, "cubic", {"a": -0.75}),
        (2, "optimal", {"smoothness": 0.1}),
        ((2, 1), "linear", {}),
        (1, "linear", {"phase": 0.5}),
    ]
    for scale, method, more in calls:
        assert told(lambda: rk.resample_conv(w, scale, method, **more))[1] == []  # noqa: B023 - called at once


def test_rescaling_a_module_warns_at_the_line_that_called_and_an_error_leaves_the_model():
    torch = pytest.importorskip("torch")
    import rekernel.torch as rkt

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    example = torch.zeros(1, 3, 8, 8)
    larger, caught = told(lambda: rkt.rescale(model, 1, example))
    assert [str(each.message) for each in caught] == list(larger.rekernel_plan.warnings)
    noted = {"methods": {"0": {"a": -0.7}}}
    larger, caught = told(lambda: rkt.rescale(model, 2, example, **noted))
    assert [str(each.message) for each in caught] == list(larger.rekernel_plan.warnings) != []
    assert {each.filename for each in caught} == {str(Path(__file__))}
    with warnings.catch_warnings():
        warnings.simplefilter("error", rk.RekernelWarning)
        with pytest.raises(rk.RekernelWarning):
            rkt.rescale(model, 2, example, inplace=True, **noted)
    assert model[0].stride == (1, 1) and not hasattr(model, "rekernel_plan")


def test_a_word_of_python_alone_is_not_told_on_the_command_line():
    pytest.importorskip("torch")
    from rekernel.diffusion import UpsampleGuidance

    with pytest.raises(rk.RekernelError, match="or 'auto'") as caught:
        UpsampleGuidance(0.5)
    assert "auto" not in caught.value.on_command_line()
