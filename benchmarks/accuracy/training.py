"""Training small, then rescaling, against training at the target from the start: accuracy, time and memory.

    python benchmarks/accuracy/training.py            # some twenty minutes on one core
    python benchmarks/accuracy/training.py --seeds 1 --steps 100 --tune 50 --out /tmp/training.json

The recipe is examples/train_small; its network has a third of the shipped classifier's channels and sees a thousand
images, clean or with noise, since the shipped one is never wrong. Every arm that trains takes the best of the same
four learning rates, chosen on seed 0 of the noisy images, by the loss on further images of the *training* fonts; no
choice was made on the test images or their fonts. A seed is the training images, their noise, the first weights and
the order of the batches.
Memory: torch's own accounting on a GPU; on a CPU (Linux) the peak of resident memory above what it was before the first
step, each arm in a process of its own. Writes results/training.json beside this file.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "train_small"))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from train_small import CHANNELS, SMALL, GlyphCNN, fit, images, reduced, score
from train_small import TEST_FONTS as HELD_OUT

import rekernel as rk
import rekernel.torch as rkt

HERE = Path(__file__).resolve().parent
CONDITIONS = {"noisy": 0.05, "clean": 0.0}  # standard deviation of a pixel's noise at 16x16
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
BATCH = 64
FORMS: dict[str, dict[str, Any] | None] = {  # how the small network gets to the target; None: as it is
    "optimal, dense": {},
    "cubic, dense": {"method": "cubic"},
    "linear, dense": {"method": "linear"},
    "nearest, dense": {"method": "nearest"},
    "optimal, factored": {"form": "factored"},
    "dilated": {"method": "dilate", "form": "factored"},
    "untouched": None,
}
QUARTER = "optimal, dense, a quarter of the batch"  # fine-tuning within the memory of the small training
FULL, SCRATCH = "target from the start", "target, fine-tuning's steps alone"
FULL_LARGE = "target from the start, kernels as large"  # the layers of "optimal, dense", random weights
PROBED_FORMS = (*FORMS, QUARTER)
PROBE_BATCH = 512  # large enough that activations, and not libraries, are what is measured

Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    if options.probe:
        print(json.dumps(probe(**json.loads(options.probe), device=options.device)))
        return
    torch.set_num_threads(1)
    console = Console(width=150)
    start = time.perf_counter()
    setting = _setting(options)
    console.print(json.dumps(setting), highlight=False)
    memory = memory_rows(options.device)
    _print_memory(console, memory)
    runs: list[Row] = []
    rates: dict[tuple[str, int], float] = {}
    for name, noise in CONDITIONS.items():
        bench = Condition(name, noise, rates, options)
        for seed in range(options.seeds):
            bench.run(seed)
        runs += bench.runs
        _print_runs(console, name, bench.runs, options)
        setting["minutes"] = round((time.perf_counter() - start) / 60, 1)
        summary = [summarised(rows) for rows in _grouped(runs).values()]
        results = {"setting": setting, "memory": memory, "summary": summary, "runs": runs}
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"{setting['minutes']} minutes")


class Condition:
    """All arms on one kind of image. `rates`, by arm and steps: filled where a rate is not chosen yet."""

    def __init__(
        self, name: str, noise: float, rates: dict[tuple[str, int], float], options: argparse.Namespace
    ) -> None:
        self.name, self.noise, self.rates, self.options = name, noise, rates, options
        self.large = SMALL * options.scale
        self.runs: list[Row] = []
        self.test = self._drawn(options.test, 2, fonts=HELD_OUT)
        self.check = self._drawn(1000, 3)

    def run(self, seed: int) -> None:
        """Every arm once."""
        short, steps = self.options.tune, self.options.steps
        self.train = self._drawn(1000, 100 + seed)
        fresh = _network(seed, self.options.device)
        small = self._trained("trained small", fresh, steps, seed, size=SMALL)
        self._trained(FULL, fresh, steps + short[-1], seed)
        self._trained(FULL_LARGE, _fresh_again(_rescaled(fresh, self.options.scale, {})), steps + short[-1], seed)
        self._trained(SCRATCH, fresh, short[-1], seed)
        for name, how in FORMS.items():
            began = time.process_time()
            model = _rescaled(small, self.options.scale, how)
            self._record(name, "rescaled", 0, seed, model, cpu_s=time.process_time() - began)
            began = time.process_time()
            ready = copy.deepcopy(model)
            rkt.recalibrate(ready, self.train[0][self.large].split(250))
            self._record(name, "re-estimated", 0, seed, ready, cpu_s=time.process_time() - began)
            for count in short:
                self._trained(name, ready, count, seed)
            if how == {}:
                self._trained(QUARTER, ready, short[-1], seed, batch=BATCH // 4)

    def _trained(
        self, arm: str, start: nn.Module, steps: int, seed: int, *, size: int | None = None, batch: int = BATCH
    ) -> nn.Module:
        """A trained copy, at the rate chosen for this arm; the first call for an arm chooses it."""
        size = size or self.large
        chosen = self.rates.get((arm, steps))
        best: tuple[float, Row, nn.Module] | None = None
        for rate in RATES if chosen is None else (chosen,):
            began, cpu = time.perf_counter(), time.process_time()
            model = fit(
                copy.deepcopy(start), self.train[0][size], self.train[1], steps=steps, lr=rate, batch=batch, seed=seed
            )
            spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began, "rate": rate}
            loss = score(model, self.check[0][size], self.check[1])["loss"]
            if best is None or loss < best[0]:
                best = loss, spent, model
        assert best is not None
        self.rates[arm, steps] = best[1]["rate"]
        self._record(arm, "trained", steps, seed, best[2], size=size, batch=batch, check_loss=best[0], **best[1])
        return best[2]

    def _record(
        self, arm: str, stage: str, steps: int, seed: int, model: nn.Module, *, size: int | None = None, **more: Any
    ) -> None:
        weights = sum(p.numel() for p in model.parameters())
        found = score(model, self.test[0][size or self.large], self.test[1])
        row = {"condition": self.name, "arm": arm, "stage": stage, "steps": steps, "seed": seed, "weights": weights}
        self.runs.append({k: round(v, 5) if isinstance(v, float) else v for k, v in {**row, **found, **more}.items()})

    def _drawn(self, count: int, seed: int, **fonts: Any) -> tuple[dict[int, Tensor], Tensor]:
        x, y = images(count, seed, noise=self.noise, **fonts)
        device = self.options.device
        return {size: reduced(x, size).to(device) for size in {SMALL, self.large}}, y.to(device)


def _network(seed: int, device: str) -> nn.Module:
    torch.manual_seed(seed)
    return GlyphCNN(channels=CHANNELS).to(device)


def _rescaled(model: nn.Module, scale: int, how: Row | None) -> nn.Module:
    if how is None:
        return model
    device = next(model.parameters()).device
    how = {"mode": "supersample", "method": "optimal", **how}
    return rkt.rescale(model, scale, torch.zeros(1, 1, SMALL, SMALL, device=device), **how)


def _fresh_again(model: nn.Module) -> nn.Module:
    """The same layers with kernels drawn as torch draws them; rescaled random kernels are smooth: no fair start."""
    for kernel in (p for p in model.parameters() if p.ndim == 4):
        nn.init.kaiming_uniform_(kernel, a=5**0.5)
    return model


# --- memory ----------------------------------------------------------------------------------------------------


def memory_rows(device: str) -> list[Row]:
    """Peak memory and time of one training step, by size and form, each in a fresh process."""
    jobs: list[Row] = [{"arm": FULL, "scale": scale} for scale in (1, 2, 4)]
    jobs += [{"arm": arm, "scale": 2} for arm in PROBED_FORMS if arm != "untouched"]
    jobs += [{"arm": arm, "scale": 4} for arm in ("optimal, dense", "optimal, factored", "dilated")]
    # Large tensors go back to the system when freed: the peak is what was in use, not what malloc had kept.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    rows = []
    for job in jobs:
        command = [sys.executable, __file__, "--device", device, "--probe", json.dumps(job)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    return rows


def probe(arm: str, scale: int, device: str, steps: int = 4) -> Row:
    """Megabytes that training takes above what was there before it, and CPU milliseconds an image."""
    torch.set_num_threads(1)
    how = FORMS["optimal, dense"] if arm == QUARTER else FORMS.get(arm)
    model = _rescaled(_network(0, device).eval(), scale, how)
    count = PROBE_BATCH // 4 if arm == QUARTER else PROBE_BATCH
    x, y = torch.rand(count, 1, SMALL * scale, SMALL * scale, device=device), torch.zeros(count, dtype=torch.long)
    y = y.to(device)
    fit(copy.deepcopy(model), x, y, steps=2, lr=1e-3, batch=8)  # libraries load and compile their kernels
    before = _reset_peak(device)
    cpu = time.process_time()
    fit(model, x, y, steps=steps, lr=1e-3, batch=count)
    each = 1000 * (time.process_time() - cpu) / (steps * count)
    return {
        "arm": arm, "scale": scale, "batch": count, "before_mb": round(before, 1),
        "peak_mb": round(_peak(device) - before, 1), "cpu_ms_per_image": round(each, 3),
    }  # fmt: skip


def _reset_peak(device: str) -> float:
    """Megabytes in use now; peaks count from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's way to start VmHWM anew
    return _status("VmRSS")


def _peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else _status("VmHWM")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


# --- output ----------------------------------------------------------------------------------------------------


def _grouped(runs: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for run in runs:
        groups.setdefault((run["condition"], run["arm"], run["stage"], run["steps"]), []).append(run)
    return groups


def summarised(rows: list[Row]) -> Row:
    """Mean and standard deviation over the seeds of one arm at one stage."""
    kept = {k: rows[0].get(k) for k in ("condition", "arm", "stage", "steps", "weights", "rate", "batch")}
    for name in ("loss", "accuracy", "macro_f1", "cpu_s", "wall_s"):
        values = [r[name] for r in rows if name in r]
        if values:
            kept[name] = round(statistics.fmean(values), 5)
            kept[f"{name}_sd"] = round(statistics.stdev(values), 5) if len(values) > 1 else None
    return kept


def _print_runs(console: Console, name: str, runs: list[Row], options: argparse.Namespace) -> None:
    table = Table(
        title=f"{name} images, {SMALL * options.scale}x{SMALL * options.scale}, held-out fonts; mean and standard "
        f"deviation of {options.seeds} seeds",
        title_justify="left",
        box=None,
    )
    for column in ("arm", "stage", "weights", "rate", "accuracy %", "macro F1 %", "loss", "CPU s"):
        table.add_column(column, justify="left" if column in ("arm", "stage") else "right")
    before = ""
    for rows in _grouped(runs).values():
        s = summarised(rows)
        stage = s["stage"] if s["stage"] != "trained" else f"{s['steps']} steps"
        table.add_row(
            "" if s["arm"] == before else s["arm"], stage, str(s["weights"]), format(s["rate"] or "", ""),
            _spread(s, "accuracy", 100, 1), _spread(s, "macro_f1", 100, 1), _spread(s, "loss", 1, 3),
            f"{s['cpu_s']:.1f}",
        )  # fmt: skip
        before = s["arm"]
    console.print(table)


def _spread(s: Row, name: str, factor: float, digits: int) -> str:
    spread = s[f"{name}_sd"]
    text = f"{factor * s[name]:.{digits}f}"
    return text if spread is None else f"{text} ± {factor * spread:.{digits}f}"


def _print_memory(console: Console, rows: list[Row]) -> None:
    table = Table(title=f"One training step, {PROBE_BATCH} images", title_justify="left", box=None)
    for column in ("grid", "arm", "batch", "peak MB", "against the target's", "CPU ms an image", "before MB"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    whole = {r["scale"]: r["peak_mb"] for r in rows if r["arm"] == FULL}
    for r in sorted(rows, key=lambda r: r["scale"]):
        side = SMALL * r["scale"]
        label = {1: "trained small", 2: r["arm"], 4: r["arm"]}[r["scale"]]
        table.add_row(
            f"{side}x{side}", label, str(r["batch"]), f"{r['peak_mb']:.0f}",
            " / ".join(f"{r['peak_mb'] / whole[s]:.2f}" for s in (2, 4) if s == r["scale"] or r["scale"] == 1),
            f"{r['cpu_ms_per_image']:.2f}", f"{r['before_mb']:.0f}",
        )  # fmt: skip
    console.print(table)


def _setting(options: argparse.Namespace) -> Row:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    return {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "rekernel": rk.__version__},
        "scale": options.scale, "seeds": options.seeds, "small_steps": options.steps, "fine_tuning": options.tune,
        "batch": BATCH, "training_images": 1000, "test_images": options.test, "noise": CONDITIONS,
        "rates": RATES, "channels": CHANNELS, "probe_batch": PROBE_BATCH,
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--steps", type=int, default=1000, help=f"training steps of {BATCH} images at {SMALL}x{SMALL}")
    parser.add_argument("--tune", type=int, nargs="+", default=[50, 200], help="fine-tuning steps, the most last")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "training.json")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
