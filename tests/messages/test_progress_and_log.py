"""`progress=` of long calls, and the logger, which is silent unless somebody listens."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import rekernel as rk


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "in.safetensors"
    safetensors.numpy.save_file({f"conv{i}.weight": np.ones((8, 8, 3, 3), np.float32) for i in range(3)}, path)
    return path


def test_true_shows_a_bar_of_tqdm_and_a_function_is_called_with_bytes(file, capsys):
    pytest.importorskip("tqdm")
    rk.convert(file, file.with_name("a.safetensors"), scale=2)
    assert capsys.readouterr().err == ""
    rk.convert(file, file.with_name("b.safetensors"), scale=2, progress=True)
    said = capsys.readouterr()
    assert "converting" in said.err and said.out == ""
    seen = []
    rk.convert(file, file.with_name("c.safetensors"), scale=2, progress=lambda *at: seen.append(at))
    assert seen[-1] == (3 * 8 * 8 * 5 * 5 * 4,) * 2 and seen == sorted(seen)


def test_rescaling_a_module_counts_its_steps(capsys):
    torch = pytest.importorskip("torch")
    import rekernel.torch as rkt

    model, seen = torch.nn.Conv2d(1, 1, 3, padding=1), []
    rkt.rescale(model, 2, torch.zeros(1, 1, 8, 8), progress=lambda *at: seen.append(at))
    assert seen == [(i, seen[0][1]) for i in range(seen[0][1] + 1)]
    pytest.importorskip("tqdm")
    rkt.rescale(model, 2, torch.zeros(1, 1, 8, 8), progress=True)
    assert "rescaling" in capsys.readouterr().err


def test_a_bar_without_tqdm_says_what_to_install(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(rk.RekernelError, match="pip install tqdm"):
        rk.convert(file, file.with_name("out.safetensors"), scale=2, progress=True)


def test_the_log_names_the_file_each_layer_and_the_time(file, caplog):
    with caplog.at_level(logging.DEBUG, logger="rekernel"):
        rk.convert(file, file.with_name("out.safetensors"), scale=2)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("rekernel.")]
    assert any(line.startswith("opened: ") and "in.safetensors" in line for line in said)
    assert "planned: conv1.weight: optimal 3->5" in said
    assert any(line.startswith("written: ") and "out.safetensors" in line for line in said)
    assert any(line.startswith("conversion: ") and line.endswith(" s") for line in said)
    assert {record.levelno for record in caplog.records if record.name.startswith("rekernel.")} == {logging.DEBUG}


def test_nothing_is_printed_where_nobody_listens(file):
    code = (
        "import sys, warnings, rekernel as rk; warnings.simplefilter('ignore'); "
        "rk.convert(sys.argv[1], sys.argv[2], scale=2)"
    )
    out = str(file.with_name("out.safetensors"))
    ran = subprocess.run([sys.executable, "-c", code, str(file), out], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_the_logger_of_the_package_has_no_handler_that_prints():
    assert [type(handler) for handler in logging.getLogger("rekernel").handlers] == [logging.NullHandler]
