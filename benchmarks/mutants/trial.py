"""Run chosen tests in a process of its own, which a server forks that has imported the large libraries already."""

from __future__ import annotations

import os
import sys
from multiprocessing import get_context
from pathlib import Path

# None of these imports rekernel or starts threads.
_IMPORTED = ("numpy", "scipy.signal", "safetensors.numpy", "torch", "torch._dynamo", "onnx", "hypothesis", "pytest",
             "click", "diffusers", "transformers")  # fmt: skip
_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(list(_IMPORTED))


def killed(copy: Path, tests: list[str], limit: float) -> str | None:
    """The test that fails, "time" where the tests take longer than `limit` seconds, None where all pass.

    Parameters
    ----------
    copy : Path
        A copy of the repository, whose code is tried.
    tests : list of str
        Ids of tests, in the order in which they run.
    limit : float
        Seconds.
    """
    (copy / "chosen-tests.txt").write_text("\n".join(tests))
    (copy / "said.txt").write_text("")
    process = _SERVER.Process(target=_run, args=(str(copy),))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return "time"
    if process.exitcode == 0:
        return None
    said = (copy / "said.txt").read_text(errors="replace").splitlines()
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" ", 1)[1].split(" - ")[0] if failed else f"exit code {process.exitcode}"


def _run(copy: str) -> None:
    os.chdir(copy)
    code = [f"{copy}/src", f"{copy}/cli"]
    sys.path[:0] = [*code, copy]
    # Bytecode of the unchanged module must not be taken for the changed one: their times may be equal.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": ":".join(code), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with open("said.txt", "w") as said:  # noqa: PTH123 - a descriptor for both streams
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    import pytest

    words = ["-x", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "@chosen-tests.txt"]
    code_of_exit = int(pytest.main(words))
    sys.stdout.flush()
    os._exit(code_of_exit)
