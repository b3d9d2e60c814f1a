"""Plans and checkpoints as tables for a terminal. Every name from a file is escaped and printed as literal text.

Scope: results of the library, rich, and counts. Not here: any other computation. Each column is one small function.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekernel.escape import inert, shown
from rekernel.messages.note import on_command_line
from rekernel.patterns import layer_of
from rekernel.plan.description import described, geometry_text
from rekernel.text import byte_size, counted, dims, few, scale_text

from ..load_hint import CONFIG, NO_OTHER_LOADER, foreign_loader, is_single_file, model_loader, pipeline_loader
from ..terminal import show

if TYPE_CHECKING:
    from rekernel import Estimate, Info, LayerChange, Plan, Recipe
    from rekernel.checkpoint.header import TensorInfo
    from rekernel.diffusion import Recorded
    from rekernel.onnx import Value

_NAME = 200
_LAYER = 60
_REASONS = 12
_FEW_NAMES = 3
_ROUNDING = 1e-12
_GAP = 2  # columns between columns
_NARROWEST = 20


def _tensor(change: LayerChange) -> str:
    return shown(change.name, _NAME)


def _old_shape(change: LayerChange) -> str:
    return dims(change.shape)


def _new_shape(change: LayerChange) -> str:
    return dims(change.new_shape)


def _method(change: LayerChange) -> str:
    return inert(f"{change.settings()}{change.on_grid()}")


def _gain(change: LayerChange) -> str:
    return ", ".join(dict.fromkeys(o.gain for o in change.operators))


def _deviation(change: LayerChange) -> str:
    deviation = change.dc_deviation()
    return "0" if deviation < _ROUNDING else f"{deviation:.1g}"


_PLAN_COLUMNS: dict[str, Callable[[LayerChange], str]] = {
    "tensor": _tensor,
    "old shape": _old_shape,
    "new shape": _new_shape,
    "method, taps": _method,
    "gain": _gain,
    "gain error": _deviation,
}

_TENSOR_COLUMNS: dict[str, Callable[[TensorInfo], str]] = {
    "tensor": lambda info: shown(info.name, _NAME),
    "dtype": lambda info: info.dtype,
    "shape": lambda info: dims(info.shape),
    "bytes": lambda info: f"{info.nbytes:,}",
}


def _show_table(
    console: Console,
    columns: Mapping[str, Callable[[Any], str]],
    rows: Sequence[Any],
    *,
    right: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print a table. A narrow terminal shows a constant `spare` column once, above the table; names break at dots."""
    filled = {title: [column(row) for row in rows] for title, column in columns.items()}
    once = {title: values[0] for title, values in filled.items() if title in spare and len(set(values)) == 1}
    if once and _width(filled) > console.width:
        filled = {title: values for title, values in filled.items() if title not in once}
        _line(console, f"In each: {', '.join(f'{title} {value}' for title, value in once.items())}.")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    first, *others = filled
    for title in filled:
        side: Literal["left", "right"] = "right" if title in right else "left"
        table.add_column(title, justify=side, overflow="fold", no_wrap=title != first)
    room = max(console.width - _width({title: filled[title] for title in others}) - _GAP, _NARROWEST)
    for name, *cells in zip(*filled.values(), strict=True):
        table.add_row(Text(_broken(name, room)), *map(Text, cells))
    show(console, table)


def _width(filled: Mapping[str, Sequence[str]]) -> int:
    return sum(max(map(len, (title, *values))) + _GAP for title, values in filled.items()) - _GAP


def _broken(name: str, room: int) -> str:
    lines = [""]
    for part in re.findall(r"[^.]*\.?", name):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _line(console: Console, text: str) -> None:
    show(console, Text(text))


def _listed(console: Console, counts: Mapping[str, int], noun: str = "other reasons") -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", min_width=6)
    table.add_column()
    ranked = sorted(counts.items(), key=lambda entry: -entry[1])
    for text, count in ranked[:_REASONS]:
        table.add_row(Text(f"{count:,}"), Text(inert(text, 400)))
    if ranked[_REASONS:]:
        table.add_row(Text(f"{sum(n for _, n in ranked[_REASONS:]):,}"), Text(noun))
    show(console, table)


def print_plan(console: Console, plan: Plan, title: str) -> None:
    """Print the changes, the new geometry of the layers, the reasons of kept tensors, and the notes."""
    asked = described(plan)
    said = [f"{label} {inert(text, 60)}" for label, text in asked.items() if label != "selection"]
    said += [inert(asked["selection"], 200)] if "selection" in asked else []
    _line(console, f"{title}: {inert(plan.family, 80) or 'no family recognised'}; {', '.join(said)}")
    if plan.changed:
        console.print()
        _show_table(console, _PLAN_COLUMNS, plan.changed, right=("gain error",), spare=("gain", "gain error"))
    console.print()
    kept = [change for change in plan.changes if change.kept]
    _line(console, f"{plan.counted()}.")
    print_geometry(console, plan)
    if kept:
        _line(console, f"Kept, {len(kept):,}:")
        _listed(console, Counter(change.reason for change in kept))
    print_notes(console, plan.warnings)


def print_plans(console: Console, plans: Mapping[str, Plan], source: str) -> None:
    """Print the plan of each component of a pipeline, or the only plan, under the name of the component."""
    for name, plan in plans.items():
        print_plan(console, plan, shown(f"{source.rstrip('/')}/{name}" if name else source, 400))
        console.print()


def print_dead_ends(console: Console, plans: Mapping[str, Plan]) -> None:
    """Print what to do instead of a conversion whose result no other program loads."""
    for plan in plans.values():
        if is_single_file(change.name for change in plan.changes) and any(c.operators for c in plan.changed):
            _line(console, NO_OTHER_LOADER)


def print_notes(console: Console, warnings: Sequence[str], limit: int | None = None) -> None:
    """Print notes: each names an ambiguity and the option that resolves it."""
    for warning in warnings[:limit]:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_row(Text("note:", style="yellow"), Text(inert(on_command_line(warning))))
        show(console, table)
    if limit is not None and len(warnings) > limit:
        _line(console, f"note: and {len(warnings) - limit} more; `rekernel plan` shows them all")


def print_geometry(console: Console, plan: Plan, *, names: int | None = _FEW_NAMES) -> None:
    """Print the new geometry of the layers; the model that loads the weights needs this geometry.

    Parameters
    ----------
    names : how many layers are named of those that change alike; None for all
    """
    layers: dict[str, list[str]] = {}
    for change in plan.changed:
        if change.geometry and change.new_geometry:
            text = f"{geometry_text(change.geometry)} -> {geometry_text(change.new_geometry)}"
            layers.setdefault(text, []).append(shown(layer_of(change.name), _LAYER))
    if layers:
        _line(console, "Layers, before -> after:")
        _listed(
            console,
            {f"{text}: {few(there, names or len(there))}": len(there) for text, there in layers.items()},
            "in other ways",
        )


def print_estimate(console: Console, estimate: Estimate) -> None:
    """Print the output size and the memory of a conversion."""
    files = f" in {counted(len(estimate.files), 'file')}" if len(estimate.files) > 1 else ""
    memory = f"peak memory about {byte_size(estimate.peak_memory)}"
    _line(console, f"Output: {byte_size(estimate.output_bytes)}{files}; {memory}.")


def print_info(console: Console, info: Info, title: str, *, tensors: bool, source: Path | None = None) -> None:
    """Print the contents of a checkpoint; for a pipeline, component by component.

    Parameters
    ----------
    source : the path as it was asked for, whose loader is shown; None for a component, which its pipeline loads
    """
    if info.components:
        parts = f"pipeline of {counted(len(info.components), 'component')} with weights"
        _line(console, f"{title}: {parts}, {byte_size(info.nbytes)}, {info.parameters:,} parameters")
        if source is not None and any(part.recipe or part.recorded for part in info.components.values()):
            _line(console, f"  loaded by {pipeline_loader(source)}")
        for name, component in info.components.items():
            console.print()
            print_info(console, component, shown(name), tensors=tensors)
        return
    kind = {"sharded": "sharded checkpoint"}.get(info.kind, info.kind)
    total = f"{counted(len(info.tensors), 'tensor')}, {info.parameters:,} parameters"
    _line(console, f"{title}: {kind}, {byte_size(info.nbytes)}, {total}")
    facts = Table.grid(padding=(0, 2, 0, 0))
    presets = f"; presets: {', '.join(info.presets)}" if info.presets else ""
    facts.add_row("  family", Text(f"{inert(info.family) or 'none recognised'}{presets}"))
    for title, values in (("  inputs", info.inputs), ("  outputs", info.outputs)):
        for i, each in enumerate(values):
            facts.add_row("" if i else title, Text(_value(each)))
    for i, (dtype, (count, nbytes)) in enumerate(info.dtypes.items()):
        facts.add_row("" if i else "  dtypes", Text(f"{dtype}: {counted(count, 'tensor')}, {byte_size(nbytes)}"))
    for i, (key, value) in enumerate(_foreign(info.metadata)):
        facts.add_row("" if i else "  metadata", Text(f"{shown(key, 80)}: {shown(value, 200)}"))
    for i, text in enumerate(_recipe(info.recipe)):
        facts.add_row("" if i else "  recipe", Text(text))
    if info.recorded is not None and info.recorded.plan is None:
        for i, text in enumerate(_recorded(info.recorded)):
            facts.add_row("" if i else "  sampling", Text(text))
    if info.recipe is not None and source is not None and info.kind != "ONNX model":
        facts.add_row("  loaded by", Text(_loader(info, source, info.recipe.plan)))
    show(console, facts)
    if info.recipe is not None:
        print_geometry(console, info.recipe.plan, names=None if tensors else _FEW_NAMES)
    if tensors:
        console.print()
        _show_table(console, _TENSOR_COLUMNS, info.tensors, right=("bytes",))


def _value(value: Value) -> str:
    shape = "of any shape" if value.shape is None else dims(shown(str(size), 40) for size in value.shape)
    return f"{shown(value.name, 80)}: {value.dtype} {shape}"


def _foreign(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    from rekernel.plan.recipe import KEY

    return [(key, value) for key, value in sorted(metadata.items()) if key != KEY]


def _loader(info: Info, source: Path, plan: Plan) -> str:
    if is_single_file(tensor.name for tensor in info.tensors):
        kept = not any(change.operators for change in plan.changed)
        return f"rekernel.diffusion.load_pipeline({str(source)!r})" if kept else "no program: see `rekernel convert`"
    if other := foreign_loader(info.metadata):
        return f"{other}({str(info.path)!r})"
    folder = source if source.is_dir() else source.parent
    return model_loader(source, folder if (folder / CONFIG).is_file() else None, plan)[0]


def _recorded(found: Recorded) -> list[str]:
    """The rows about guidance that a folder records; its options come from a file."""
    said = [f"recorded at {scale_text(found.scale)} times the trained size"]
    parts = {"guidance": found.guidance, "kernels": found.kernels, "positions": found.positions}
    for name, options in parts.items():
        if options is not None:
            given = ", ".join(f"{shown(str(key), 40)}={shown(str(value), 80)}" for key, value in options.items())
            said.append(f"{name}: {given or 'as by default'}")
    if found.cascade is not None:
        said.append(f"cascade: {', then '.join(f'{strength:g}' for strength in found.cascade)}")
    return said


def _recipe(recipe: Recipe | None) -> list[str]:
    if recipe is None:
        return ["none: not rescaled by rekernel"]
    asked = described(recipe.plan)
    said = [f"scale {inert(asked['scale'], 60)}", f"method {inert(asked.get('method', '?'), 60)}"]
    around = sum(bool(change.factors) for change in recipe.plan.changed)
    said += [f"{counted(len(recipe.plan.changed) - around, 'tensor')} rescaled"]
    said += [f"{counted(around, 'layer')} changed around kept weights"] if around else []
    said += [f"cast to {inert(recipe.dtype, 20)}"] if recipe.dtype else []
    sources = [f"source: {byte_size(source.nbytes)}, sha256 {inert(source.sha256, 80)}" for source in recipe.sources]
    more = [f"and {counted(len(sources) - 3, 'file')} more"] if len(sources) > 3 else []
    return [f"{', '.join(said)}, by {inert(recipe.tool, 80)}", *sources[:3], *more]
