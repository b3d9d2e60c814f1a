"""Say which form of a layer is the faster one on a measured device, and where the estimate for CPUs says otherwise.

    python benchmarks/gpu/decide.py results/DEVICE.json

`form="auto"` decides by an estimate that was fitted on a CPU (`rekernel.torch.planning.cost`), on every device. This
script shows what a table of the measured rows would decide instead. The look-up moves into the package together with
the first table, and not before: without one it would never run.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]

FORMS = {"dense same-extent": "dense", "factored": "factored"}  # between which `form="auto"` chooses


@dataclass(frozen=True)
class Facts:
    """What decides between the forms of a layer.

    device, dtype, channels_last : where and how it runs
    inputs, outputs, groups, kernel, stride : of the trained layer
    pixels : pixels of its input at the new size, times the images of a call
    """

    device: str
    dtype: str
    channels_last: bool
    inputs: int
    outputs: int
    groups: int
    kernel: int
    stride: int
    pixels: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """What has to be equal for two layers to be compared."""
        depthwise = self.groups == self.inputs and self.groups > 1
        return (
            self.device, self.dtype, self.channels_last, self.kernel, self.stride,
            "depthwise" if depthwise else self.groups,
        )  # fmt: skip

    @property
    def extent(self) -> tuple[float, float, float]:
        """Channels and pixels in powers of two, which say how near two layers are."""
        return math.log2(self.inputs), math.log2(self.outputs), math.log2(self.pixels)


def faster_form(layer: Facts, table: Mapping[Facts, Mapping[str, float]]) -> str | None:
    """The form that was faster in the nearest measured layer of its kind; None outside of the measured range.

    Parameters
    ----------
    layer : Facts
    table : milliseconds of 'dense' and 'factored' by the facts of a measured layer

    Examples
    --------
    >>> narrow = Facts("card", "float16", True, 64, 64, 1, 3, 1, 1024)
    >>> wide = Facts("card", "float16", True, 1024, 1024, 1, 3, 1, 1024)
    >>> table = {narrow: {"dense": 1.0, "factored": 2.0}, wide: {"dense": 3.0, "factored": 1.0}}
    >>> faster_form(Facts("card", "float16", True, 512, 512, 1, 3, 1, 1024), table)
    'factored'
    >>> faster_form(Facts("card", "float16", True, 32, 32, 1, 3, 1, 1024), table) is None
    True
    """
    alike = {known.extent: times for known, times in table.items() if known.kind == layer.kind}
    if not alike:
        return None
    for own, *known in zip(layer.extent, *alike, strict=True):
        if not min(known) <= own <= max(known):
            return None
    nearest = min(alike, key=lambda extent: math.dist(extent, layer.extent))
    return min(alike[nearest], key=alike[nearest].__getitem__)


def table_of(files: Iterable[Mapping[str, Any]]) -> dict[Facts, dict[str, float]]:
    """The rows of result files that have both forms, run without compiling and with cuDNN's own choice."""
    table = {}
    for held in files:
        for row in held["rows"].values():
            if row["kind"] != "layer" or not FORMS.keys() <= row.get("forms", {}).keys():
                continue
            layer, setup = row["layer"], row["setup"]
            if setup["compiled"] or setup["autotune"]:
                continue
            facts = Facts(
                held["setting"]["device"], setup["dtype"], setup["channels_last"], layer["inputs"], layer["outputs"],
                layer["groups"], layer["kernel"], layer["stride"],
                layer["images"] * (row["scale"] * layer["size"]) ** 2,
            )  # fmt: skip
            table[facts] = {short: row["forms"][name]["median"] for name, short in FORMS.items()}
    return table


def estimated(layer: Facts, scale: int) -> str:
    """The form that `form="auto"` takes today."""
    import torch
    from torch import nn

    import rekernel.torch as rkt
    from rekernel.torch.layers.factored import FactoredConv

    with torch.device("meta"):
        plain = nn.Conv2d(
            layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.kernel // 2, groups=layer.groups
        )
    plain = plain.to_empty(device="cpu")
    example = torch.zeros(1, layer.inputs, 16, 16)
    made = rkt.rescale(plain, scale, example, mode="supersample", method="optimal", form="auto", check=False)
    return "factored" if isinstance(made, FactoredConv) else "dense"


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted((HERE / "results").glob("*.json"))
    if not paths:
        sys.exit("there are no result files yet; python benchmarks/gpu/run.py writes one on a machine with a GPU")
    files = [json.loads(path.read_text()) for path in paths]
    wrong = 0
    table = table_of(files)
    for facts, times in table.items():
        measured, guess = faster_form(facts, table), estimated(facts, 2)
        wrong += measured != guess
        ratio = times["factored"] / times["dense"]
        print(f"{facts}: factored / dense {ratio:.2f}, measured {measured}, estimated {guess}")
    print(f"the estimate takes the slower form in {wrong} of {len(table)} rows")


if __name__ == "__main__":
    main()
