"""What every format of a model's files has to answer, and the records of what is asked.

Scope: the protocol. Not here: the formats (see `checkpoints`, `onnx_models`), and which of them a source has (see
`recognise`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..conversion.options import Options
from ..conversion.report import Report
from ..escape import shown
from ..messages.display import Displayed, Table
from ..plan.plan import Plan
from ..plan.recipe import Recipe
from ..planning.settings import PlanningOptions, Scale
from ..sources.store_address import StoreAddress
from ..text import byte_size, counted
from .info import Info

INTERPRETER = 80 << 20
"""Bytes resident before the first tensor: Python, NumPy, BLAS (benchmarks/speed/convert.py)."""


@dataclass(frozen=True)
class PlanRequest:
    """How to plan: the arguments of `plan_source` that do not choose what is planned."""

    scale: Scale
    options: PlanningOptions = field(default_factory=PlanningOptions)
    allow_cast: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True)
class Order:
    """A conversion as it is asked for.

    target, into_folder : where to, and whether that is a folder which a file goes into
    plan : a plan that was made before, or what to plan
    components : of a pipeline, those to rescale
    options : all that does not depend on the plan
    """

    target: Path | StoreAddress
    into_folder: bool
    plan: Plan | PlanRequest
    components: Sequence[str] | None
    options: Options


@dataclass(frozen=True, repr=False)
class Estimate(Displayed):
    """What a conversion will need.

    output_bytes : of all files it writes, headers aside
    peak_memory : resident bytes, about
    files : (name, bytes) of the checkpoints written
    """

    output_bytes: int
    peak_memory: int
    files: tuple[tuple[str, int], ...]

    def _line(self) -> str:
        files = f"{byte_size(self.output_bytes)} in {counted(len(self.files), 'file')}"
        return f"{files}, peak memory about {byte_size(self.peak_memory)}"

    def _tables(self) -> Iterator[Table]:
        files = [(shown(name), byte_size(nbytes)) for name, nbytes in self.files]
        yield Table(counted(len(files), "file"), ("file", "size"), files)


@dataclass(frozen=True)
class Weights:
    """Weights as they lie there: their files, and the recipe where they were rescaled."""

    files: tuple[Path, ...]
    recipe: Recipe | None


class ModelFiles(Protocol):
    """The files of a model in one format, at an open place."""

    def plan(self, request: PlanRequest, components: Sequence[str] | None) -> dict[str, Plan]:
        """One plan under '', or one for each component of a pipeline."""

    def estimate(
        self, plans: Mapping[str, Plan], *, dtype: str | None, max_shard_size: int | None, allow_pickle: bool
    ) -> Estimate:
        """What converting by these plans needs."""

    def convert(self, order: Order) -> Report:
        """Rescale, and write the result."""

    def inspect(self, *, allow_pickle: bool) -> Info:
        """What headers or graph say."""

    def weights(self) -> dict[str, Weights]:
        """The weights under '', or those of each component of a pipeline; empty where there are none."""
