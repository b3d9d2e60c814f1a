"""Which tests run which line, and how long each test takes: one run of the fast suite under coverage.py.

Tests that start the command as a process of its own count for the lines that the process runs.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

_CONFIG = """[run]
source = {sources}
context = ${{PYTEST_CURRENT_TEST-}}
parallel = true
data_file = {data}
patch = subprocess
[report]
ignore_errors = true
"""


def run_suite(root: Path, out: Path, paths: list[str]) -> None:
    """Run the fast suite once and write coverage.json ({path: {line: [tests]}}) and seconds.json ({test: seconds})."""
    shutil.rmtree(out, ignore_errors=True)  # what an earlier run found would be combined with this one's
    out.mkdir(parents=True)
    config = out / "settings.ini"
    config.write_text(_CONFIG.format(sources=",".join(sorted({str((root / p).parent) for p in paths})),
                                     data=out / "coverage"))  # fmt: skip
    command = [
        sys.executable, "-m", "coverage", "run", f"--rcfile={config}", "-m", "pytest", "-m", "not slow", "-n", "auto",
        "--maxprocesses", "8", "--dist", "loadfile", "-p", "coverage_contexts", f"--junitxml={out / 'junit.xml'}",
        "-o", "junit_family=xunit1", "-p", "no:cacheprovider",
    ]  # fmt: skip
    paths_of_python = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths_of_python}
    subprocess.run(command, cwd=root, env=environment, check=False)
    (out / "coverage.json").write_text(json.dumps(_lines(root, out / "coverage", paths)))
    (out / "seconds.json").write_text(json.dumps(_seconds(out / "junit.xml")))


def _lines(root: Path, data: Path, paths: list[str]) -> dict[str, dict[int, list[str]]]:
    from coverage import Coverage

    coverage = Coverage(data_file=str(data))
    coverage.combine(keep=True)
    found: dict[str, dict[int, list[str]]] = {}
    read = coverage.get_data()
    for path in paths:
        contexts = read.contexts_by_lineno(str(root / path))
        found[path] = {line: sorted({_test(c) for c in names if c}) for line, names in contexts.items()}
    return found


def _test(context: str) -> str:
    """The id of a test in the context of a process, "id (call)"."""
    return re.sub(r" \(\w+\)$", "", context)


def _seconds(report: Path) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for case in ET.parse(report).iter("testcase"):
        seconds[f"{case.get('file')}::{case.get('name')}"] += float(case.get("time") or 0)
    return dict(seconds)


def tests_of(root: Path, path: str, line: int, covered: dict[str, dict[str, list[str]]]) -> list[str]:
    """The tests that run a line. A line outside functions, or of a signature, counts as run by its users.

    For a line of a signature these are the tests that run the function. For one outside functions, whose names other
    modules import, they are all tests that run anything of the module's folder.

    Parameters
    ----------
    root, path, line
        Folder of the repository, path of the module in it, and number of the line.
    covered : {path: {line: [tests]}}
        As `run_suite` writes it.
    """
    tree = ast.parse((root / path).read_text())
    inner = None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and min(
            [node.lineno, *(d.lineno for d in node.decorator_list)]
        ) <= line <= (node.end_lineno or 0):
            inner = node if inner is None or node.lineno > inner.lineno else inner
    if inner is None:
        folder = [lines for other, lines in covered.items() if Path(other).parent == Path(path).parent]
        return sorted({test for lines in folder for tests in lines.values() for test in tests})
    if line < inner.body[0].lineno:
        lines = range(inner.body[0].lineno, (inner.end_lineno or 0) + 1)
    else:
        statement = max(
            (n for n in ast.walk(inner) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0)),
            key=lambda n: n.lineno,
        )
        lines = range(statement.lineno, (statement.end_lineno or 0) + 1)
    return sorted({test for at, tests in covered[path].items() if int(at) in lines for test in tests})
