"""Run a target on many inputs for some seconds: with atheris, which follows coverage, or else with hypothesis.

`python -m tests.fuzz.engine TARGET SECONDS OUT [SEED]` fuzzes one target in its own process. Every failing input goes
to OUT/TARGET, once for each place where it fails; the exit code is 1 if there is one.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

SLOW = 20.0  # seconds for one input; the slowest that are right take a few on a busy machine
MEMORY = 6 << 30  # bytes of addresses: torch alone reserves more than a gigabyte
LONGEST = 600  # bytes of an input

TARGETS = {
    "header": "targets_weights", "index": "targets_weights", "recipe": "targets_weights", "plan": "targets_weights",
    "lora": "targets_weights", "pickle": "targets_weights", "model_index": "targets_weights",
    "record": "targets_others", "journal": "targets_others", "onnx": "targets_others", "hub": "targets_others",
    "options": "targets_others",
}  # fmt: skip


class TooSlow(BaseException):
    """An input took longer than `SLOW`; not an Exception, so that no reader takes it for a fault of its file."""


def _stop(_: int, __: FrameType | None) -> None:
    raise TooSlow


class Findings:
    """What failed so far, by the place where it failed."""

    def __init__(self, name: str, out: Path) -> None:
        self.name, self.out = name, out / name
        self.seen: set[str] = set()
        self.runs = 0

    def note(self, error: BaseException, data: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/rekernel" in f.filename or "/fuzz/" in f.filename] or frames
        place = f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
        if place in self.seen:
            return
        self.seen.add(place)
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
        path.write_bytes(data)
        lines = "".join(traceback.format_exception(error))
        path.with_suffix(".txt").write_text(lines, errors="backslashreplace")
        said = ascii(str(error)[:200])
        print(f"{self.name}: {place}: {said}\n  input: {path}", flush=True)


def guarded(name: str, findings: Findings, folder: Path) -> Callable[[bytes], None]:
    """The target as a function that never raises, but notes what failed."""
    target: Callable[[bytes, Path], None] = getattr(importlib.import_module(f".{TARGETS[name]}", __package__), name)

    def run(data: bytes) -> None:
        findings.runs += 1
        signal.setitimer(signal.ITIMER_REAL, SLOW)
        try:
            target(data, folder)
        except (Exception, TooSlow) as error:
            findings.note(error, data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return run


def with_hypothesis(run: Callable[[bytes], None], seconds: float, seed: int) -> None:
    """Inputs of hypothesis, in rounds, until the time is over."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    end = time.monotonic() + seconds
    while time.monotonic() < end:

        @seeded(seed)
        @settings(max_examples=200, database=None, deadline=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(st.binary(max_size=LONGEST))
        def round_of(data: bytes) -> None:
            if time.monotonic() < end:
                run(data)

        round_of()
        seed += 1


def with_atheris(atheris: Any, run: Callable[[bytes], None], seconds: float, seed: int, corpus: Path) -> None:
    """Inputs of libFuzzer, which keeps those that reach new lines. Does not return."""
    corpus.mkdir()
    chance = random.Random(seed)
    for number in range(100):
        (corpus / str(number)).write_bytes(chance.randbytes(chance.randrange(LONGEST)))
    options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={LONGEST}", "-timeout=0"]
    options += [f"-artifact_prefix={corpus}/", "-rss_limit_mb=0", "-print_final_stats=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, "-len_control=0", str(corpus)], run)
    atheris.Fuzz()


def main() -> None:
    """Fuzz the target that the command line names."""
    name, seconds, out = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _stop)
    try:
        import atheris
    except ImportError:
        atheris = None
    if name == "hub":
        from .targets_others import endpoint

        os.environ.update(HF_ENDPOINT=endpoint(), HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = str(Path(folder) / "hf")
        findings = Findings(name, out)
        if atheris is None:
            run = guarded(name, findings, Path(folder))
            with_hypothesis(run, seconds, seed)
            _end(findings, "hypothesis")
        with atheris.instrument_imports(include=["rekernel", "rekernel_cli"]):
            run = guarded(name, findings, Path(folder))
        end = time.monotonic() + seconds

        def until(data: bytes) -> None:
            if time.monotonic() > end:  # libFuzzer ends the process in its own way, which keeps no exit code of ours
                _end(findings, "atheris")
            run(data)

        with_atheris(atheris, until, seconds + 60, seed, Path(folder) / "corpus")


def _end(findings: Findings, engine: str) -> None:
    print(f"{findings.name}: {findings.runs} inputs with {engine}, {len(findings.seen)} failed", flush=True)
    os._exit(1 if findings.seen else 0)


if __name__ == "__main__":
    main()
