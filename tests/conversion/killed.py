"""Kill a conversion at each of its steps on the file system, one after the other: a server that forks.

Run as a program, it reads a request a line and answers with one line. The kill is exact, since it counts the events
that Python's audit hooks tell before each operation, so a test needs no clock.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STEPS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate", "shutil.rmtree")


class Killer:
    """The server. `run` says whether the run was killed before it ended."""

    def __init__(self, process: Any) -> None:
        self._process = process

    def run(self, step: int, *arguments: Any, exchange: bool = True, **options: Any) -> bool:
        request = {"step": step, "arguments": list(map(str, arguments)), "options": options}
        self._process.stdin.write(json.dumps({**request, "exchange": exchange}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer in ("killed", "done"), answer
        return answer == "killed"


@contextmanager
def killer() -> Iterator[Killer]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        yield Killer(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def serve() -> None:
    import warnings

    import rekernel
    from rekernel.conversion import aside

    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            if not request["exchange"]:  # a system without the call
                aside._exchange = lambda a, b: False
            left = request["step"]

            def count(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal left
                writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
                if writes or event in STEPS:
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            try:
                rekernel.convert(*request["arguments"], **request["options"])
            except BaseException as error:
                sys.stderr.write(f"{error}\n")
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write(("killed" if killed else "done" if status == 0 else f"failed: {status}") + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
