"""Run a study of sampling above the trained size, on real Stable Diffusion weights that you have.

    accelerate launch benchmarks/sd/run.py benchmarks/sd/study.yaml --out out/sd
    python benchmarks/sd/run.py benchmarks/sd/study.yaml --out out/sd --report-only

Any number of GPUs; the pictures are split over the processes. A run that was stopped goes on where it was: a picture
that exists, of the same settings, is not made again. Then the first process measures, and writes results.json,
report.html and a contact sheet for each prompt. Exit code 1 where a picture failed, 2 for a study that cannot be run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

from study import Study
from study_file import read_study

from rekernel.checkpoint.atomic_file import write_atomic
from rekernel.errors import RekernelError

_WAIT = datetime.timedelta(days=30)  # a process waits for the slowest one; the default of NCCL is 10 minutes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; it may exist")
    parser.add_argument("--report-only", action="store_true", help="measure the pictures that exist; make none")
    parser.add_argument("--retry", action="store_true", help="try methods again that were skipped")
    parser.add_argument("--list", action="store_true", help="show the number of pictures and what is missing; stop")
    asked = parser.parse_args()
    try:
        return run(read_study(asked.study), asked)
    except RekernelError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2


def run(study: Study, asked: argparse.Namespace) -> int:
    """Make, measure and write; the processes meet before and after the pictures are made."""
    from work_items import FAILED, Store, items_of, share_of

    store, items = Store(asked.out), items_of(study)
    if asked.list:
        print(f"{len(items)} pictures, {len(store.missing(items, retry=asked.retry))} to make")
        return 0
    import torch
    from accelerate import PartialState

    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=_WAIT)
    asked.out.mkdir(parents=True, exist_ok=True)
    if not asked.report_only:
        from generation import Generation

        missing = store.missing(items, retry=asked.retry)
        state.wait_for_everyone()  # all have listed the same pictures: none was made meanwhile
        share = share_of(missing, state.process_index, state.num_processes)
        _told(state, f"{len(missing)} of {len(items)} pictures to make, {len(share)} by this process")
        Generation(store, state.device, lambda text: _told(state, text), study.prompts).run(share)
        state.wait_for_everyone()
    first = state.is_main_process
    state.destroy_process_group()  # torchmetrics would gather the figures of all processes, and one alone measures
    if not first:
        return 0
    _write(study, store, state.device)
    failed = sum(record["state"] == FAILED for _, record in store.recorded(items))
    if failed:
        print(f"run.py: {failed} pictures failed; the report says why, and the next run tries again", file=sys.stderr)
    return 1 if failed else 0


def _write(study: Study, store: Any, device: Any) -> None:
    from contact_sheets import write_sheets
    from measuring import measured
    from study_report import report_html

    results = measured(study, store, device, lambda text: print(text, file=sys.stderr))
    text = json.dumps(results, indent=1, allow_nan=False)
    write_atomic(store.folder / "results.json", f"{text}\n".encode(), force=True)
    page = report_html(results, write_sheets(study, store))
    write_atomic(store.folder / "report.html", page.encode(), force=True)
    print(store.folder / "report.html")


def _told(state: Any, text: str) -> None:
    print(f"[process {state.process_index + 1}/{state.num_processes}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
