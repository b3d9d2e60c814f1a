"""Measure the cost of upsample guidance: steps of a UNet above its trained size, guided and not, in one run.

    python benchmarks/speed/guidance.py [--scale 2]

A UNet2DConditionModel with Stable Diffusion 1.5's layout at three tenths of its width (random weights; the ratio does
not depend on them) and a trained size of 32x32 latents is called with 64x64 and 128x128 latents, as a sampler calls it.
'passes' is the cost of the additional passes when they are called separately. 'bound' is 1.05 times their cost if it
were proportional to their pixels, 1 + share/m^2 (nested: 4/3). Median of interleaved repeats; writes
results/guidance.json.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import machine
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from rich.console import Console
from rich.table import Table

from rekernel.diffusion import SupersampledKernels, UpsampleGuidance

TRAINED, TIMES, REPEATS = 32, (999, 800, 600, 401, 399, 200), {2: 5, 4: 3}


def network() -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=TRAINED, block_out_channels=(96, 192, 384, 384), cross_attention_dim=192, attention_head_dim=4
    ).eval()


def seconds(unet: Any, size: int, times: Sequence[int] = TIMES) -> float:
    """Steps over the whole schedule: four of six noisier than 0.4 T."""
    x = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 77, 192)
    begin = time.perf_counter()
    with torch.inference_mode():
        for t in times:
            unet(x, t, encoder_hidden_states=text)
    return time.perf_counter() - begin


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--scale", type=int, choices=(2, 4), help="these rows alone; the others keep their results")
    asked = parser.parse_args()
    only = asked.scale
    torch.set_num_threads(os.cpu_count() or 1)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    share = sum(t >= 0.4 * 999 for t in TIMES) / len(TIMES)
    old = machine.stored("guidance", asked.results).get("rows", [])
    rows = [row for row in old if only not in (None, row["scale"])]
    for scale, name, guidance, kernels, bound in (
        (2, "guidance (1, 1)", {"eta": 1.0}, None, 1 + 1 / 4),
        (2, "guidance (1, 0.6)", {"eta": 0.6}, None, 1 + share / 4),
        (2, "guidance (1, 1) + factored optimal inner kernels", {"eta": 1.0}, {}, None),
        (2, "factored optimal inner kernels alone", None, {}, None),
        (4, "guidance by 4 in one step", {"eta": 1.0, "levels": 1}, None, 1 + 1 / 16),
        (4, "nested guidance", {"eta": 1.0}, None, 4 / 3),
    ):
        if only in (None, scale):
            rows.append(measured(scheduler, scale, name, guidance, kernels, bound))
    rows.sort(key=lambda row: row["scale"])
    setting = {
        "device": asked.machine, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "trained": TRAINED, "times": TIMES, "repeats": REPEATS,
    }  # fmt: skip
    machine.write("guidance", {"setting": setting, "rows": rows}, asked.results)
    table = Table(title=f"guided over unguided steps ({setting['device']}, {setting['threads']} threads)")
    for column in ("row", "unguided s", "guided s", "ratio", "passes", "bound"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.3f}"
        table.add_row(
            f"{row['scale']}x {row['name']}",
            f"{row['plain']:.2f}",
            f"{row['guided']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['passes']:.3f}",
            limit,
        )
    Console(width=120).print(table)


def measured(scheduler: Any, scale: int, name: str, guidance: Any, kernels: Any, bound: float | None) -> dict[str, Any]:
    """Plain and guided in turn, so that a busy machine is busy for both."""
    unet, size = network(), TRAINED * scale
    plain, guided, passes = [], [], []
    below = (
        []
        if guidance is None
        else [TRAINED]
        if "levels" in guidance
        else [TRAINED * level for level in (1, 2)][: scale // 2]
    )
    acting = TIMES[:4] if guidance is not None and guidance["eta"] < 1 else TIMES
    specs = [] if kernels is None else [SupersampledKernels(scale, **kernels)]
    specs += [] if guidance is None else [UpsampleGuidance(scale, **guidance)]
    for spec in specs:
        spec.attach(unet, scheduler=scheduler)
    for repeat in range(REPEATS[scale] + 1):
        for spec in specs:
            spec.disable()
        first = seconds(unet, size)
        low = sum(seconds(unet, small, acting) for small in below)
        for spec in specs:
            spec.enable()
        second = seconds(unet, size)
        if repeat:  # the first pass plans, and fills caches
            plain.append(first)
            guided.append(second)
            passes.append((first + low) / first)
    for spec in specs:
        spec.remove()
    ratio = statistics.median(g / p for g, p in zip(guided, plain, strict=True))
    return {
        "scale": scale, "name": name, "plain": statistics.median(plain), "guided": statistics.median(guided),
        "ratio": ratio, "passes": statistics.median(passes), "limit": None if bound is None else 1.05 * bound,
    }  # fmt: skip


if __name__ == "__main__":
    main()
