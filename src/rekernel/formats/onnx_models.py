"""ONNX models: planned, estimated, converted, inspected.

Scope: what has a meaning for a graph; the rest is refused. Not here: the graph (see `onnx`, imported where it is
needed, since it is an extra).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.paths import contained
from ..conversion.report import Report
from ..errors import Option, RekernelError
from ..escape import shown_path
from ..plan.plan import Plan
from ..plan.recipe import find_recipe
from ..planning.settings import Request
from ..sources.place import Place
from ..sources.store_address import StoreAddress
from ..sources.store_client import shown_address
from .info import Info, counted
from .model_files import INTERPRETER, Estimate, Order, PlanRequest, Weights


@dataclass(frozen=True)
class OnnxFiles:
    """An ONNX model, or a folder of which one is all the weights.

    place : as it was opened
    model : the path of the model there
    """

    place: Place
    model: Path

    def plan(self, request: PlanRequest, components: Sequence[str] | None) -> dict[str, Plan]:
        from ..onnx import plan_onnx

        _refuse(components=components)
        return {"": plan_onnx(self.place, self.model, _requested(request))}

    def estimate(
        self, plans: Mapping[str, Plan], *, dtype: str | None, max_shard_size: int | None, allow_pickle: bool
    ) -> Estimate:
        from ..onnx import output_bytes

        _refuse(dtype=dtype, max_shard_size=max_shard_size)
        nbytes = output_bytes(self.place, self.model, plans[""])
        return Estimate(nbytes, INTERPRETER + 3 * nbytes, ((self.model.name, nbytes),))

    def convert(self, order: Order) -> Report:
        from ..onnx import convert_onnx

        options = order.options
        _refuse(
            dtype=options.dtype, max_shard_size=options.max_shard_size, components=order.components,
            resume=options.resume,
        )  # fmt: skip
        if options.executor or options.part or options.finish:
            raise RekernelError(f"{shown_path(self.model)}: an ONNX model is one file, converted by this process alone")
        asked = order.plan if isinstance(order.plan, Plan) else _requested(order.plan)
        if isinstance(order.target, StoreAddress):
            raise RekernelError(
                f"{shown_address(order.target)}: an ONNX model is written to a disk; pass a local path, and copy the "
                f"result there"
            )
        return convert_onnx(
            self.place, self.model, order.target, asked, into_folder=order.into_folder, force=options.force,
            progress=options.progress,
        )  # fmt: skip

    def inspect(self, *, allow_pickle: bool) -> Info:
        from ..onnx import FAMILY, list_model

        found = list_model(self.place.here(self.model))
        info = counted(self.place.named(self.model), "ONNX model", found.tensors, found.metadata)
        return replace(info, family=FAMILY, inputs=found.inputs, outputs=found.outputs)

    def weights(self) -> dict[str, Weights]:
        from ..onnx import list_model

        found = list_model(self.model)
        for file in found.beside:
            contained(self.model.parent, file.relative_to(self.model.parent).as_posix())
        return {"": Weights((self.model, *found.beside), find_recipe(found.metadata))}


def _requested(request: PlanRequest) -> Request:
    _refuse(allow_cast=request.allow_cast, allow_pickle=request.allow_pickle)
    return Request.of(request.scale, **request.options)


def _refuse(**options: Any) -> None:
    """Raise for what has a meaning for checkpoints alone."""
    for name, value in options.items():
        if value:
            named = Option(name, f"--{name.removesuffix('s').replace('_', '-')}")  # --component is given once for each
            raise RekernelError(named, " is for checkpoints; an ONNX model is converted as one file, without it")
