"""Count the cost of the blurs in the factored form: multiplications of whole networks at twice their trained size.

    python benchmarks/speed/smoothing.py

Random weights, float32; a count, so that it is the same on every machine. Writes results/smoothing.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import machine
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import rekernel.torch as rkt


def resnet18() -> Any:
    config = transformers.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    return transformers.ResNetForImageClassification(config)


def resnet50() -> Any:
    return transformers.ResNetForImageClassification(transformers.ResNetConfig())


NETWORKS: dict[str, tuple[Callable[[], Any], int]] = {
    "ResNet-18": (resnet18, 224),
    "ResNet-50": (resnet50, 224),
}


def multiplications(net: Any, x: torch.Tensor) -> int:
    """Multiplications of one forward pass, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(x)
    return int(counter.get_total_flops()) // 2


def main() -> None:
    asked = machine.parser(__doc__, machine=False).parse_args()
    table = Table(title="multiplications of one image, factored form at twice the trained size")
    for column in ("network", "pixels", "untouched, 1e6", "smoothing, 1e6", "share"):
        table.add_column(column, justify="left" if column == "network" else "right")
    rows = []
    for name, (make, size) in NETWORKS.items():
        net = make().eval()
        x = torch.zeros(1, 3, size, size)
        plain = multiplications(net, x)
        larger = rkt.rescale(net, 2, torch.zeros(1, 3, size // 2, size // 2), form="factored")
        blurs = multiplications(larger, x) - plain
        rows.append({"network": name, "pixels": size, "untouched": plain, "smoothing": blurs})
        table.add_row(name, str(size), f"{plain / 1e6:.1f}", f"{blurs / 1e6:.1f}", f"{blurs / plain:.3f}")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    machine.write("smoothing", {"versions": versions, "rows": rows}, asked.results)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
