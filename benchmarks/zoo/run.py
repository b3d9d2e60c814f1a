"""Rescale every architecture of the model zoos by 2, and say of each whether the result is right.

    python benchmarks/zoo/run.py --packages DIR                    # all zoos; writes results/zoo.json
    python benchmarks/zoo/run.py --packages DIR timm torchvision   # these zoos again; the rows of the others stay
    python benchmarks/zoo/run.py --packages DIR --only 'timm/res*' --show

Scope: which architectures run, in processes of their own, and the result file. Not here: one architecture (see
`measure`), and the page (see `tables`). `README.md` says what goes into DIR.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import logging
import multiprocessing
import os
import platform
import resource
import sys
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from measure import FAINT, MODES, measure, silent

import rekernel as rk

RESULTS = Path(__file__).resolve().parent / "results" / "zoo.json"
ZOOS = ("transformers", "diffusers", "torchvision", "timm", "segmentation_models", "monai", "facenet")
INSTALLED = ("transformers", "diffusers")
"""Zoos that rekernel's own environment has. They run first: the others bring torchvision, which these then import."""
MODULES = {
    "torchvision": ("zoo_torchvision",),
    "timm": ("zoo_timm",),
    "transformers": ("zoo_transformers", "zoo_transformers_dense", "zoo_transformers_sound"),
    "diffusers": ("zoo_diffusers", "zoo_diffusers_vae"),
    "segmentation_models": ("zoo_segmentation_models",),
    "monai": ("zoo_monai",),
    "facenet": ("zoo_facenet",),
}
LIMIT = 240
"""Seconds that one architecture may take."""
MEMORY = 6 * 2**30
"""Bytes that one architecture may take: more fails in its own process, not in others of the machine."""

Row = dict[str, Any]


def main() -> None:
    """Run the zoos that were asked for, print a line for each architecture, and write the result file."""
    options = _options()
    start = time.perf_counter()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    earlier = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {row["name"]: row for row in earlier}
    asked = options.zoos or ZOOS
    if not options.only:
        rows = {name: row for name, row in rows.items() if row["zoo"] not in asked}
    for zoo in sorted(asked, key=ZOOS.index):
        if zoo not in INSTALLED and options.packages is not None:
            sys.path.append(str(options.packages.resolve()))
        rows |= {row["name"]: row for row in _zoo(zoo, options)}
    ordered = sorted(rows.values(), key=lambda row: (ZOOS.index(row["zoo"]), row["name"].lower()))
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(ordered)} architectures in the file; {minutes:.1f} minutes", flush=True)
    if options.out is not None:
        setting = {"scale": 2, "versions": {"torch": torch.__version__, "rekernel": rk.__version__,
                   "python": platform.python_version(), **_versions()}}  # fmt: skip
        options.out.parent.mkdir(exist_ok=True)
        lines = ",\n".join("  " + json.dumps(row) for row in ordered)
        options.out.write_text(f'{{"setting": {json.dumps(setting)},\n "rows": [\n{lines}\n]}}\n')


def _zoo(zoo: str, options: argparse.Namespace) -> list[Row]:
    nets: dict[str, Any] = {}
    for module in MODULES[zoo]:
        nets |= importlib.import_module(module).ARCHITECTURES
    names = [name for name in nets if fnmatch.fnmatch(f"{zoo}/{name}".lower(), (options.only or "*").lower())]

    def run(name: str) -> Row:
        row = {"zoo": zoo, "name": f"{zoo}/{name}", **_apart(nets[name], options.borderless)}
        print(_line(row, options.show), flush=True)
        return row

    with ThreadPoolExecutor(options.jobs) as pool:
        return list(pool.map(run, names))


def _apart(net: Any, borderless: bool) -> Row:
    """Measure in a process of its own, which gives its memory back and cannot take the others along."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(net, borderless, theirs))
    process.start()
    theirs.close()
    try:
        row: Row = ours.recv() if ours.poll(LIMIT) else {"broken": f"took more than {LIMIT} s"}
    except EOFError:
        row = {"broken": f"the process ended with {process.exitcode}"}
    process.kill() if "broken" in row else None
    process.join()
    return row


def _measured(net: Any, borderless: bool, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        answer.send(measure(net, borderless=borderless))
    except Exception as error:  # a fault of this benchmark, not of rekernel: the row says so
        frames = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[:-7:-1])
        answer.send({"broken": f"{type(error).__name__}: {error} ({frames})"[:700]})


def _line(row: Row, show: bool) -> str:
    if "broken" in row:
        return f"{row['name']}: BROKEN {row['broken']}"
    parts = [f"{row['name']} ({row['parameters'] / 1e6:.2f}M, contrast {row['contrast']}, sensitivity {row['sensitivity']}, moved {row['moved']})"]
    if row["contrast"] < FAINT:
        parts.append("FAINT")
    for mode in MODES:
        v = row[mode]
        mark = "SILENT " if silent(row, mode) else "CRASH " if v["outcome"] == "crash" else ""
        detail = v.get("error", "")
        notes = f", {len(v['notes'])} notes" if v.get("notes") else ""
        parts.append(f"{mode}: {mark}{v['outcome']} {detail}{notes}; checked: {v.get('checked', '')}; {v['seconds']} s")
        if show or mark or v["outcome"] == "refused":
            text = v.get("message", "") if show else v.get("message", "").split("\n")[0]
            parts += [f"    {text} {v.get('where', '')} {v.get('frames', '')}".rstrip()]
        if show:
            parts += [f"    note: {n}" for n in v.get("notes", [])]
    return "\n  ".join(p for p in parts if p.strip())


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torchvision", "timm", "transformers", "diffusers", "segmentation-models-pytorch", "monai",
                 "facenet-pytorch"):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoos", nargs="*", metavar="ZOO", help=", ".join(ZOOS))
    parser.add_argument("--packages", type=Path, metavar="DIR", help="folder with the packages that are not installed")
    parser.add_argument("--only", metavar="GLOB", help="only architectures whose zoo/name matches; rows are replaced")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="print the messages and notes, too")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--borderless", action="store_true", help="circular padding, to look into an error; with --dry")
    parser.add_argument("--dry", action="store_true", help="no result file")
    options = parser.parse_args()
    if unknown := set(options.zoos) - set(ZOOS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(ZOOS)}")
    if options.dry:
        options.out = None
    return options


if __name__ == "__main__":
    main()
