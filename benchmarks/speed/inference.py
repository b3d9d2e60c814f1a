"""Measure the cost of a rescaled convolution: dense, factored and dilated forms against the untouched layer.

    python benchmarks/speed/inference.py [--device cuda]

The 3x3 convolutions of Stable Diffusion 1.5's UNet at twice and at one and a half times its latent size, one image:
float32 on a CPU, float16 with channels_last on a GPU. The layers are what `rekernel.torch.rescale` makes, but for

- 'space-to-batch': the dilated convolution as ordinary ones on the interleaved grids, stacked along the batch;
- 'ScaleCrafter-style': what ScaleCrafter (arXiv 2310.07702) runs for a dilation d, read in its source: the feature map
  is resized by ceil(d)/d (bilinear), convolved at dilation ceil(d), and resized back. At a whole scale both resizings
  are to the size the map has, and it runs them nevertheless; at 1.5x the convolution runs on 16/9 of the pixels.

The factored and dilated forms need whole scales, so they have no figure at 1.5x. All forms take turns, and each figure
is the fastest turn of a form. Writes results/inference-DEVICE.json.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import machine
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel.torch as rkt

if TYPE_CHECKING:
    from rich.console import Console

HERE = Path(__file__).parent
# (channels in, channels out, trained latent size, stride): resnets of level 1, level 2, the middle, the widest up
# block, and the downsampler of level 1.
LAYERS = (
    (640, 640, 32, 1), (1280, 1280, 16, 1), (1280, 1280, 8, 1), (2560, 1280, 16, 1), (640, 640, 32, 2),
)  # fmt: skip
SCALES = (2.0, 1.5)
RESCALED: dict[str, dict[str, str]] = {
    "dense same-extent": {"method": "optimal"},
    "dense full cubic": {"method": "cubic"},
    "factored": {"method": "optimal", "form": "factored"},
    "dilated": {"method": "dilate", "form": "factored"},
}
WHOLE = ("factored", "dilated", "space-to-batch")
FORMS = (*RESCALED, "space-to-batch", "ScaleCrafter-style")


def space_to_batch(layer: nn.Conv2d, x: Tensor, d: int) -> Tensor:
    """A convolution of stride 1 and 'same' padding at dilation `d`, as one without dilation on d * d interleaved grids.

    Examples
    --------
    >>> layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 8, 8)
    >>> dilated = F.conv2d(x, layer.weight, layer.bias, padding=2, dilation=2)
    >>> torch.allclose(space_to_batch(layer, x, 2), dilated, atol=1e-5)
    True
    """
    n, c, height, width = x.shape
    grids = x.reshape(n, c, height // d, d, width // d, d).permute(3, 5, 0, 1, 2, 4)
    out = layer(grids.reshape(d * d * n, c, height // d, width // d))
    apart = out.reshape(d, d, n, -1, height // d, width // d).permute(2, 3, 4, 0, 5, 1)
    return apart.reshape(n, -1, height, width)


def scalecrafter(layer: nn.Conv2d, x: Tensor, dilation: float) -> Tensor:
    """A re-dilated convolution, for dilations between the whole ones too: resize, convolve, resize back.

    Examples
    --------
    >>> layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 12, 12)
    >>> scalecrafter(layer, x, 1.5).shape
    torch.Size([1, 3, 12, 12])
    >>> dilated = F.conv2d(x, layer.weight, layer.bias, padding=2, dilation=2)
    >>> torch.allclose(scalecrafter(layer, x, 2), dilated, atol=1e-5)
    True
    """
    d = math.ceil(dilation)
    height, width = x.shape[-2:]
    larger = F.interpolate(x, size=(round(height * d / dilation), round(width * d / dilation)), mode="bilinear")
    out = F.conv2d(larger, layer.weight, layer.bias, layer.stride, d, d)
    return F.interpolate(out, size=(height // layer.stride[0], width // layer.stride[1]), mode="bilinear")


def in_turns(calls: dict[str, Callable[[], object]], device: str, seconds: float) -> dict[str, float]:
    """Milliseconds of the fastest call of each, all taking turns for so many seconds each, three turns at least."""
    fastest = dict.fromkeys(calls, math.inf)
    end, turns = 0.0, -1  # the first turn is not counted
    while turns < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turns >= 0:
                fastest[name] = min(fastest[name], 1000 * (time.perf_counter() - begin))
        if turns < 0:
            end = time.perf_counter() + seconds * len(calls)
        turns += 1
    return fastest


def rescaled_forms(layer: nn.Conv2d, scale: float, example: Tensor) -> dict[str, nn.Module]:
    """The layer in each form of rekernel that exists at this scale.

    Examples
    --------
    >>> list(rescaled_forms(nn.Conv2d(2, 2, 3, padding=1), 1.5, torch.zeros(1, 2, 8, 8)))
    ['dense same-extent', 'dense full cubic']
    """
    whole = scale == round(scale)
    return {
        name: rkt.rescale(layer, scale, example, mode="supersample", check=False, **options)
        for name, options in RESCALED.items()
        if whole or name not in WHOLE
    }


def measure(
    inputs: int, outputs: int, size: int, stride: int, scale: float, device: str, seconds: float = 2.0
) -> dict[str, float]:
    """Milliseconds of each form at `scale` times the size, and the bytes of its weights."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    order = torch.channels_last if device == "cuda" else torch.contiguous_format
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    example = torch.zeros(1, inputs, size, size)
    large = round(scale * size)
    x = torch.randn(1, inputs, large, large, generator=torch.Generator().manual_seed(0))
    x = x.to(device, dtype, memory_format=order)
    whole = scale == round(scale)
    made: dict[str, nn.Module] = {"untouched": layer, **rescaled_forms(layer, scale, example)}
    made = {name: module.to(device, dtype, memory_format=order) for name, module in made.items()}
    calls: dict[str, Callable[[], object]] = {n: lambda module=module: module(x) for n, module in made.items()}
    if whole and stride == 1:
        calls["space-to-batch"] = lambda: space_to_batch(layer, x, round(scale))
    calls["ScaleCrafter-style"] = lambda: scalecrafter(layer, x, scale)
    with torch.inference_mode():
        row = in_turns(calls, device, seconds)
    held = {f"{n} bytes": sum(p.nbytes for p in made.get(n, layer).parameters()) for n in calls}
    return {**row, **held}


def printed(rows: list[dict[str, float | str]], scale: float, setting: dict[str, object], console: Console) -> None:
    """The rows of one scale as a table, and as Markdown below it."""
    from rich.table import Table

    chosen = [r for r in rows if r["scale"] == scale]
    everywhere = {name for name in FORMS if all(name in r for r in chosen)}
    total = {name: sum(float(r[name]) for r in chosen) for name in ("untouched", *everywhere)}
    shown = [name for name in FORMS if any(name in r for r in chosen)]
    title = f"3x3 convolutions at {scale:g}x, one image, {setting['dtype']} ({setting['device']}"
    table = Table("layer", "untouched ms", *shown, title=f"{title}, {setting['threads']} threads); untouched = 1")
    lines = [f"| layer | untouched, ms | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for r in (*chosen, {"layer": "all", **total}):
        base = float(r["untouched"])
        ratios = [f"{float(r[name]) / base:.2f}" if name in r else "-" for name in shown]
        table.add_row(str(r["layer"]), f"{base:.1f}", *ratios)
        lines.append(f"| {r['layer']} | {base:.1f} | {' | '.join(ratios)} |")
    heavier = {n: sum(float(r.get(f"{n} bytes", 0)) for r in chosen) for n in ("untouched", *shown) if n in total}
    weights = [f"{heavier[n] / heavier['untouched']:.2f}" if n in heavier else "-" for n in shown]
    table.add_row("weights in memory", "", *weights)
    lines.append(f"| weights in memory | | {' | '.join(weights)} |")
    console.print(table)
    for line in lines:  # unbroken, to be pasted
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def main() -> None:
    from rich.console import Console

    parser = machine.parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    asked = parser.parse_args()
    device = asked.device
    setting = {
        "device": torch.cuda.get_device_name() if device == "cuda" else asked.machine,
        "dtype": "float16, channels_last" if device == "cuda" else "float32", "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    rows: list[dict[str, float | str]] = []
    for scale in SCALES:
        for inputs, outputs, size, stride in LAYERS:
            at = round(scale * size)
            name = f"{inputs}->{outputs} at {at}x{at}" + (f", stride {stride}" if stride > 1 else "")
            rows.append({"layer": name, "scale": scale, **measure(inputs, outputs, size, stride, scale, device)})
    console = Console(width=160)
    for scale in SCALES:
        printed(rows, scale, setting, console)
    machine.write(f"inference-{device}", {"setting": setting, "rows": rows}, asked.results)


if __name__ == "__main__":
    main()
