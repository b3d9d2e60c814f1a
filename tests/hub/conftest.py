"""The loopback hub, and `rekernel` run against it: as a program of its own, or in one helper process that stays.

The client reads HF_ENDPOINT, HF_HOME and the like when it is imported, so that nothing of it runs in the tests' own
process, and nothing of it is patched. The helper spares each test the second that importing takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from .server import OWNER, LoopbackHub

ROOT = Path(__file__).parents[2]

_HELPER = """
import io, json, os, runpy, sys, traceback
from contextlib import redirect_stderr, redirect_stdout
pipe = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    job, out, err, code = json.loads(line), io.StringIO(), io.StringIO(), 0
    os.chdir(job["folder"])
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(job["env"])
    with redirect_stdout(out), redirect_stderr(err):
        try:
            if "python" in job:
                exec(compile(job["python"], "pasted", "exec"), {"__name__": "__main__"})
            else:
                from rekernel_cli.main import main
                main(job["args"], prog_name="rekernel")
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 99
    pipe.write(json.dumps({"code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}) + "\\n")
    pipe.flush()
"""


@dataclass
class Ran:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)

    @property
    def line(self) -> str:
        """The one line that an error is."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("Error: ")]
        assert self.code == 1 and len(lines) == 1, (self.code, self.stderr)
        assert self.stderr.rstrip().endswith(lines[0]), self.stderr  # nothing after it: no traceback
        return lines[0].removeprefix("Error: ")


Rekernel = Callable[..., Ran]


@pytest.fixture(scope="session")
def _server() -> Iterator[LoopbackHub]:
    server = LoopbackHub()
    yield server
    server.close()


@pytest.fixture
def hub(_server: LoopbackHub) -> LoopbackHub:
    """The hub, without a trace of other tests but their repositories; call `name()` for one of your own."""
    _server.reset()
    return _server


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """What this test may call its repositories: the helper's cache outlives it."""
    return request.node.name.replace("[", "-").replace("]", "").replace("_", "-")[:60].strip("-")


def environment(server: LoopbackHub, home: Path) -> dict[str, str]:
    """Of a process that knows no other hub than this, and neither token nor cache of the user's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return kept | {
        "HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}",
    }  # fmt: skip


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@contextmanager
def _helping(env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", _HELPER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
    )  # fmt: skip
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(10)


def _runner(helper: subprocess.Popen[str], folder: Path) -> Rekernel:
    def run(*args: object, token: str | None = OWNER, python: str | None = None) -> Ran:
        job = {"args": [str(arg) for arg in args], "folder": str(folder), "env": {"HF_TOKEN": token} if token else {}}
        if python is not None:
            job["python"] = python
        assert helper.stdin is not None and helper.stdout is not None
        helper.stdin.write(json.dumps(job) + "\n")
        helper.stdin.flush()
        return Ran(**json.loads(helper.stdout.readline()))

    return run


@pytest.fixture(scope="session")
def _helper(_server: LoopbackHub, _home: Path) -> Iterator[subprocess.Popen[str]]:
    with _helping(environment(_server, _home)) as process:
        yield process


@pytest.fixture
def rekernel(_helper: subprocess.Popen[str], hub: LoopbackHub, tmp_path: Path) -> Rekernel:
    """`rekernel ...` in the helper, with the owner's token unless another or none is given; `python=` runs a script."""
    return _runner(_helper, tmp_path)


@pytest.fixture
def offline(_server: LoopbackHub, _home: Path, tmp_path: Path) -> Iterator[Rekernel]:
    """The same with the same cache and HF_HUB_OFFLINE=1."""
    with _helping(environment(_server, _home) | {"HF_HUB_OFFLINE": "1"}) as process:
        yield _runner(process, tmp_path)


@pytest.fixture
def program(hub: LoopbackHub, tmp_path: Path) -> Rekernel:
    """The same as a program of its own, with a cache in `tmp_path` and whatever else of the environment."""

    def run(*args: object, token: str | None = OWNER, **env: str) -> Ran:
        settings = environment(hub, tmp_path / "home") | ({"HF_TOKEN": token} if token else {}) | env
        done = subprocess.run(
            [sys.executable, "-m", "rekernel_cli", *map(str, args)],
            capture_output=True, text=True, cwd=tmp_path, timeout=120, env=settings, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def weights(seed: int = 0, size: int = 16) -> dict[str, np.ndarray]:
    """A small network's tensors; `size` channels decide how large the file is."""
    rng = np.random.default_rng(seed)
    shapes = {
        "conv1.weight": (size, 3, 3, 3), "conv2.weight": (size, size, 3, 3), "point.weight": (size, size, 1, 1),
        "conv1.bias": (size,),
    }  # fmt: skip
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def card(**front: object) -> bytes:
    """A model card with this front matter."""
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    return f"---\n{lines}\n---\n\n# A model\n".encode()


def checkpoint(seed: int = 0, size: int = 16) -> bytes:
    """The bytes of a safetensors file."""
    return save(weights(seed, size), metadata={"format": "pt"})
