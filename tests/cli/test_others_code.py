"""Whose error it is: theirs is one line that names what was run, ours keeps its traceback."""

import pytest

from rekernel import RekernelError
from rekernel_cli.user_code import running

torch = pytest.importorskip("torch")

THEIRS = """
import torch
def forward(x): return torch.cat([x, x[:, 1:]], dim=0)
def stated(x): raise KeyError("\\x1b[2J\\nsecond line")
def wanting(x): raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
def empty(x): raise AssertionError
"""


@pytest.fixture
def theirs(tmp_path):
    from rekernel_cli.user_code import import_file

    (tmp_path / "their_model.py").write_text(THEIRS)
    return import_file(tmp_path / "their_model.py")


@pytest.mark.parametrize("name", ["forward", "stated", "empty"])
def test_their_error_names_what_was_run_and_where_it_failed(theirs, name):
    with pytest.raises(RekernelError) as caught, running("Net on 3x3 pixels", "; a hint"):
        getattr(theirs, name)(torch.zeros(2, 3))
    said = str(caught.value)
    assert said.startswith("Net on 3x3 pixels: ") and said.endswith("); a hint")
    assert "(their_model.py, line " in said
    assert "\n" not in said and "\x1b" not in said


def test_memory_that_torch_does_not_get_is_memory(theirs):
    with pytest.raises(MemoryError, match="Net on 3x3 pixels"), running("Net on 3x3 pixels"):
        theirs.wanting(None)


def test_our_bug_keeps_its_traceback_though_they_called_us(theirs):
    from rekernel_cli.values import number

    theirs.hook = lambda: number(None)  # an AttributeError in a module of ours
    exec("def calls_us(): return hook()", vars(theirs))
    with pytest.raises(AttributeError), running("Net"):
        theirs.calls_us()


def test_errors_with_lines_of_their_own_pass():
    for error in (RekernelError("ours"), FileNotFoundError("gone"), MemoryError()):
        with pytest.raises(type(error)) as caught, running("Net"):
            raise error
        assert caught.value is error
