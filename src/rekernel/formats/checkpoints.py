"""Checkpoints and pipelines of them: planned, estimated, converted, inspected.

Scope: the order of the steps. Not here: how weights are written (see `conversion.run`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..architectures.detect import architecture
from ..checkpoint.discover import candidates_in
from ..checkpoint.pipeline_folder import Component, find_pipeline
from ..checkpoint.variants import chosen_weights
from ..conversion.downloads import fetch
from ..conversion.output_files import arrange, output_tensors
from ..conversion.parts import parts_of
from ..conversion.report import Report
from ..conversion.run import Conversion
from ..conversion.streaming import peak_bytes
from ..conversion.to_store import convert_to_store
from ..errors import RekernelError
from ..escape import shown_path
from ..messages.warn import tell
from ..plan.config_entry import recipe_beside, recipe_of
from ..plan.plan import Plan
from ..planning.by_name import plan_opened
from ..planning.guards import nothing_changes, refuse_recorded
from ..planning.position_grid import CONFIG
from ..planning.settings import Request
from ..sources.place import Place
from ..sources.store_address import StoreAddress
from .info import Info, counted
from .model_files import INTERPRETER, Estimate, Order, PlanRequest, Weights


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint, or a diffusers pipeline folder."""

    place: Place

    def plan(self, request: PlanRequest, components: Sequence[str] | None) -> dict[str, Plan]:
        return self._plans(parts_of(self.place.path, components), request)

    def estimate(
        self, plans: Mapping[str, Plan], *, dtype: str | None, max_shard_size: int | None, allow_pickle: bool
    ) -> Estimate:
        files: list[tuple[str, int]] = []
        peak = 0
        for name, path in parts_of(self.place.path, [n for n in plans if n] or None).items():
            with self.place.open(path, allow_pickle=allow_pickle) as opened:
                outputs = arrange(opened, output_tensors(opened, plans[name], dtype), path.name, max_shard_size)
            files += [(f"{name}/{file.name}" if name else file.name, file.nbytes) for file in outputs.files]
            peak = max(peak, peak_bytes(outputs.files))
        return Estimate(sum(size for _, size in files), INTERPRETER + peak, tuple(files))

    def convert(self, order: Order) -> Report:
        parts, options = parts_of(self.place.path, order.components), order.options
        if isinstance(order.plan, PlanRequest):
            plans = self._plans(parts, order.plan)
        elif len(parts) > 1:
            raise RekernelError(f"one plan does not fit {len(parts)} components; convert them one at a time")
        else:
            plans = dict.fromkeys(parts, order.plan)
        if all(p.empty for p in plans.values()) and options.dtype is None and options.max_shard_size is None:
            reasons = [change.reason for plan in plans.values() for change in plan.changes]
            raise nothing_changes(shown_path(self.place.path), [w for p in plans.values() for w in p.warnings], reasons)
        if isinstance(order.plan, PlanRequest):
            tell(note for plan in plans.values() for note in plan.warnings)
        fetched = fetch(self.place, parts, allow_pickle=options.allow_pickle)
        if isinstance(order.target, StoreAddress):
            return convert_to_store(fetched, order.target, plans, options, into_folder=order.into_folder)
        run = Conversion(options, plans, fetched.origin, fetched.copy)
        pipeline = fetched.pipeline()
        if pipeline is None:
            return run.checkpoint(fetched, order.target, into_folder=order.into_folder)
        return run.pipeline(pipeline, fetched, order.target)

    def inspect(self, *, allow_pickle: bool) -> Info:
        path = self.place.path
        pipeline = find_pipeline(path)
        if pipeline is None:
            return self._info(path, allow_pickle)
        components = {
            name: self._with_record(self._info(weights, allow_pickle), component)
            for name, component in pipeline.components.items()
            if (weights := chosen_weights(component)) is not None
        }
        if not components:
            raise RekernelError(f"{shown_path(path)}: a pipeline folder without safetensors weights")
        return Info(
            self.place.named(path),
            "pipeline",
            nbytes=sum(info.nbytes for info in components.values()),
            parameters=sum(info.parameters for info in components.values()),
            components=components,
        )

    def weights(self) -> dict[str, Weights]:
        path = self.place.path
        pipeline = find_pipeline(path)
        if pipeline is not None:
            chosen = {name: chosen_weights(component) for name, component in pipeline.components.items()}
        else:
            chosen = {"": path if not path.is_dir() or candidates_in(path)[0] else None}
        found = {}
        for name, weights in chosen.items():
            if weights is not None:
                with self.place.open(weights) as opened:
                    found[name] = Weights(opened.files, recipe_of(opened))
        return found

    def _plans(self, parts: Mapping[str, Path], request: PlanRequest) -> dict[str, Plan]:
        asked = Request.of(request.scale, allow_cast=request.allow_cast, **request.options)
        plans = {}
        for name, path in parts.items():
            refuse_recorded(path, whole=bool(name) or path.is_dir())
            with self.place.open(path, allow_pickle=request.allow_pickle) as opened:
                self.place.complete(opened.path.parent / CONFIG)
                plans[name] = plan_opened(opened, asked)
        return plans

    def _with_record(self, info: Info, component: Component) -> Info:
        """The same, with what the component's config records."""
        from ..diffusion.denoiser.names import DENOISERS
        from ..diffusion.pipelines.record import read_record

        if component.name not in DENOISERS:
            return info
        self.place.complete(component.folder / CONFIG)
        try:
            return replace(info, recorded=read_record(component.folder))
        except RekernelError as error:  # looking must not fail on what it could show
            return replace(info, recipe_error=info.recipe_error or str(error))

    def _info(self, path: Path, allow_pickle: bool) -> Info:
        with self.place.open(path, allow_pickle=allow_pickle) as opened:
            tensors = tuple(opened.tensors.values())
            found = architecture({info.name: info.shape for info in tensors}, opened.metadata)
            family, shapes = found.family, found.shapes
            info = counted(self.place.named(opened.path), opened.kind, tensors, opened.metadata)
            return replace(
                info,
                recipe=info.recipe or (None if info.recipe_error else recipe_beside(opened.path)),
                family=family.name if family else "",
                presets=tuple(sorted(family.presets(shapes))) if family else ("all",),
            )
