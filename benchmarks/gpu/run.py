"""Measure rekernel on a GPU: forms of layers, `resample`, guided and cascaded steps.

    python benchmarks/gpu/run.py --seconds 420

Rows run in the order of their worth and are written one by one to results/DEVICE.json, so a run that is cut off keeps
its rows, and the next run goes on behind them. A row that fails keeps its reason instead of numbers; the next run tries
it again. README.md says what a row holds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]
sys.path.append(str(HERE.parent / "speed"))

import layer_rows  # noqa: E402
import resample_rows  # noqa: E402
import step_rows  # noqa: E402
from result_file import Results, device_name, file_name  # noqa: E402

import rekernel as rk  # noqa: E402

Row = tuple[str, Callable[[str, float], dict[str, Any]]]
EACH = {"layer": 0.1, "resample": 0.2, "steps": 1.5}  # seconds for each form of a row, by the kind of row


def rows_in_order(tiny: bool) -> Iterator[Row]:
    """The rows of most worth first: steps of SD1.5, the usual setup of layers, SDXL, `resample`, the other setups."""
    if tiny:
        yield from layer_rows.rows(layer_rows.tiny_settings())
        yield from resample_rows.rows(16, resample_rows.DTYPES[:1])
        yield from step_rows.rows(step_rows.TINY, "float32")
        return
    setups = layer_rows.settings_in_order()
    yield from step_rows.rows(step_rows.SD15, "float16")
    yield from layer_rows.rows(setups[:1])
    yield from step_rows.rows(step_rows.NETWORKS[1], "bfloat16")
    yield from resample_rows.rows(resample_rows.CHANNELS, resample_rows.DTYPES)
    yield from layer_rows.rows(setups[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420, help="begin no row that is not expected to end by then")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="layers and networks that a CPU runs in seconds")
    parser.add_argument("--again", action="store_true", help="measure rows that the result file has, too")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder of the result files")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("this torch sees no CUDA device; --device cpu --tiny tries the script out", file=sys.stderr)
        return 1
    name = device_name(asked.device)
    results = Results(asked.out / file_name(name), setting(name, asked.device))
    each = dict.fromkeys(EACH, 0.01) if asked.tiny else EACH
    return measure(list(rows_in_order(asked.tiny)), results, asked.device, asked.seconds, each, again=asked.again)


def setting(name: str, device: str) -> dict[str, Any]:
    """What the rows were measured with."""
    versions = {"torch": torch.__version__, "rekernel": rk.__version__}
    if device == "cuda":
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"device": name, "cores": os.cpu_count(), **versions}


def measure(
    rows: list[Row], results: Results, device: str, seconds: float, each: dict[str, float], *, again: bool = False
) -> int:
    """Measure the rows that the file does not have, until the time is over: 0, or 2 if rows are left for another."""
    begin, longest = time.monotonic(), {}
    for number, (key, run) in enumerate(rows):
        if not again and "forms" in results.rows.get(key, {}):
            continue
        kind, start = key.partition(":")[0], time.monotonic()
        if start - begin + longest.get(kind, 0.0) > seconds:
            print(f"the time is over: {len(rows) - number} of {len(rows)} rows were not looked at", file=sys.stderr)
            return 2
        try:
            row = run(device, each[kind])
        except Exception as error:
            row = {"kind": kind, "failed": f"{type(error).__name__}: {error}"[:500]}
        finally:
            if device == "cuda":
                torch.cuda.empty_cache()
        took = time.monotonic() - start
        longest[kind] = max(longest.get(kind, 0.0), took)
        results.add(key, {**row, "seconds": round(took, 2)})
        print(f"{took:6.1f} s  {key}  {row.get('failed', '')}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
