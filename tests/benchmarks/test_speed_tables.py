"""docs/performance.md shows what the result files of benchmarks/speed hold, and what is over its limit as missed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"
PAGE = SPEED.parents[1] / "docs" / "performance.md"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("speed_tables", SPEED / "tables.py")
    module = importlib.util.module_from_spec(spec)
    kept = sys.path[:]
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = kept
    for name in ("child", "convert", "machine", "marked_tables", "measures"):
        sys.modules.pop(name, None)


def test_every_marked_table_is_made_of_the_result_files(maker):
    made = maker.tables()
    text = maker.PAGE.read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- table:([\w-]+) -->\n(.*?)<!-- /table:", text, re.DOTALL))
    assert made.keys() <= shown.keys()
    for name, body in made.items():
        assert shown[name].strip() == body, f"{name}: run python benchmarks/speed/tables.py"


def test_a_number_beyond_its_limit_is_shown_as_missed(maker, monkeypatch):
    most = next(m for m in maker.MEASURES if m.key == "convert default")
    least = next(m for m in maker.MEASURES if m.key == "script default")
    assert most.met(1.15)
    assert not most.met(1.16)
    assert least.met(3)
    assert not least.met(2.99)
    monkeypatch.setattr(maker, "value", lambda measure, machine, side: 1.2)
    monkeypatch.setattr(maker, "MEASURES", [most, least])
    lines = maker.performance().splitlines()[2:]
    assert [line.count("**missed**") for line in lines] == [len(maker.machines())] * 2


def test_a_peak_is_that_of_the_command_not_of_the_process_that_measures():
    """The kernel takes the memory of the process that calls exec as the least peak of the new program."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import child\n"
        "block = bytearray(b'1') * (200 << 20)\n"
        "print(child.measured([sys.executable, '-S', '-c', 'pass'])[1],"
        " child.measured([sys.executable, '-S', '-c', 'x = bytearray(b\"1\") * (100 << 20)'])[1])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(SPEED)], capture_output=True, text=True, check=True)
    small, large = map(int, run.stdout.split())
    assert small < 60 << 20
    assert 100 << 20 < large < 180 << 20


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    yield importlib.import_module("machine")
    sys.modules.pop("machine")


def test_results_of_two_machines_lie_side_by_side(tmp_path, machine):
    for name, rows in (("A", {"x": 1}), ("B", {"x": 2}), ("A", {"y": 3})):
        machine.store("speed", {"cores": 2}, rows, machine=name, folder=tmp_path / "new")
    found = machine.stored("speed", tmp_path / "new")
    assert {name: entry["rows"] for name, entry in found.items()} == {"A": {"x": 1, "y": 3}, "B": {"x": 2}}


def test_two_machines_with_one_processor_can_have_two_names(tmp_path, machine):
    parser = machine.parser("Measure.")
    assert parser.parse_args([]).machine == machine.processor()
    assert parser.parse_args([]).results == SPEED / "results"
    asked = parser.parse_args(["--machine", "guest", "--results", str(tmp_path)])
    assert (asked.machine, asked.results) == ("guest", tmp_path)


SCRIPTS = sorted(path.name for path in SPEED.glob("*.py") if path.name not in ("child.py", "machine.py", "measures.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_measures_nothing_and_writes_nothing(script):
    pytest.importorskip("diffusers")
    kept = {path: path.stat().st_mtime_ns for path in (*SPEED.rglob("*.json"), PAGE)}
    run = subprocess.run([sys.executable, str(SPEED / script), "-h"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout.startswith(f"usage: {script}"), run.stderr
    assert ("--machine NAME" in run.stdout) == (script not in ("smoothing.py", "tables.py"))
    assert {path: path.stat().st_mtime_ns for path in (*SPEED.rglob("*.json"), PAGE)} == kept
