"""Run a command and print its seconds and its peak memory: `python -S child.py RESULT COMMAND...`.

Linux keeps the resident memory of the process that calls `exec` as the least `ru_maxrss` of the new program: a command
that a benchmark with torch in its memory starts by itself has at least the peak of the benchmark. This launcher imports
nothing large, so that the peak is the command's own from about 10 MB on.
Scope: one process. Not here: what runs in it (see `convert`, `rounding`, `filesystems`).
"""

from __future__ import annotations

import os
import sys
import time

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


def measured(command: list[str], result: str = "") -> tuple[float, int]:
    """Seconds of `command`, with the sync of the file `result` if one is named, and its peak resident bytes."""
    import subprocess  # not in the launcher, which stays small

    run = subprocess.run(
        [sys.executable, "-S", "-E", __file__, result, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, peak = run.stdout.split()[-2:]
    return float(seconds), int(peak)


def main() -> None:
    result, *command = sys.argv[1:]
    begin = time.perf_counter()
    pid = os.fork()
    if not pid:
        os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
        os.execvp(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{command[:3]} failed with status {status}")
    if result:
        fd = os.open(result, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    print(time.perf_counter() - begin, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
