"""Plans as compact text, so that a person can read what differs between two of them.

Knows the names of a plan's fields and nothing of how a plan is made. A field that is not named here is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

Case = tuple[str, Callable[[], Any]]
"""A title, and a call that gives a plan or a dict of plans."""

SAME = '"'
USUAL = {"method": "optimal", "gain": "dc", "a": -0.5, "smoothness": 0.01}
"""Settings that are not written where they are these."""


def number(value: Any) -> str:
    """Twelve significant digits of a float, and the integer where it is one."""
    return format(float(value), ".12g") if isinstance(value, float) else str(value)


def dims(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def operators_text(operators: Iterable[Any]) -> str:
    """Operators side by side; axes that share one are listed together."""
    ordered = [(_operator(o), o.axis) for o in operators]
    return "; ".join(
        f"{','.join(str(axis) for _, axis in group)}: {text}"
        for text, group in ((t, list(g)) for t, g in groupby(ordered, key=lambda pair: pair[0]))
    )


def _operator(o: Any) -> str:
    words = [f"{o.old}>{o.new} {o.geometry} x{number(float(o.scale))} {o.method} {o.gain}"]
    words += [f"phase={number(float(o.phase))}"] if float(o.phase) else []
    words += [f"dilation={o.dilation}"] if o.dilation != 1 else []
    words += [f"a={number(float(o.a))}"] if o.a != USUAL["a"] else []
    words += [f"smoothness={number(float(o.smoothness))}"] if o.smoothness != USUAL["smoothness"] else []
    return " ".join(words)


def geometry_text(axes: Iterable[Any]) -> str:
    """Kernel, stride, padding and dilation of each axis; equal neighbours are counted."""
    each = [
        f"k{g.kernel}s{g.stride}p{g.padding[0]},{g.padding[1]}" + (f"d{g.dilation}" if g.dilation != 1 else "")
        for g in axes
    ]
    groups = [(text, len(list(group))) for text, group in groupby(each)]
    return " ".join(text + (f"*{count}" if count > 1 else "") for text, count in groups)


def change_text(c: Any) -> str:
    """One change on one line."""
    shape = dims(c.shape) + (f">{dims(c.new_shape)}" if tuple(c.new_shape) != tuple(c.shape) else "")
    parts = [f"{json.dumps(c.name)[1:-1]} {c.dtype} {shape} {c.kind}"]
    if c.view:
        parts[0] += "" if tuple(c.view) == tuple(c.shape) else f" view={dims(c.view)}"
    elif c.kind != "keep":
        parts[0] += " view=none"
    if c.prefix or c.grid_axis:
        parts[0] += f" prefix={c.prefix} grid_axis={c.grid_axis}"
    if c.operators:
        parts.append(operators_text(c.operators))
    if c.factors:
        parts.append(f"factors {operators_text(c.factors)}")
    if c.geometry or c.new_geometry:
        parts.append(f"{geometry_text(c.geometry)} > {geometry_text(c.new_geometry)}")
    if c.by_hand or c.by_hand_mode:
        parts.append(f"by hand {' '.join(f'{a},{b}' for a, b in c.by_hand)} {c.by_hand_mode}".rstrip())
    return " | ".join(parts)


def _plainly_kept(c: Any) -> bool:
    rest = (c.view, c.operators, c.factors, c.geometry, c.new_geometry, c.by_hand, c.by_hand_mode)
    return c.kind == "keep" and tuple(c.shape) == tuple(c.new_shape) and not any(rest) and not (c.prefix or c.grid_axis)


def plan_lines(plan: Any, *, kept: bool) -> Iterator[str]:
    """What a plan decides.

    Parameters
    ----------
    kept : whether each tensor that stays has a line of its own; otherwise those of one dtype have a line together

    A change whose operators and geometry are those of the change before it says `SAME`.
    """
    yield f"family {plan.family!r}"
    before = ""
    stay: dict[str, list[Any]] = {}
    for change in plan.changes:
        if not kept and _plainly_kept(change):
            stay.setdefault(change.dtype, []).append(change)
            continue
        line = change_text(change)
        head, _, rest = line.partition(" | ")
        yield f"{head} | {SAME}" if rest and rest == before else line
        before = rest
    for dtype, changes in stay.items():
        names = changes[0].name if len(changes) == 1 else f"{changes[0].name} .. {changes[-1].name}"
        yield f"keep {len(changes)} {dtype} of {sum(math.prod(c.shape) for c in changes)}: {json.dumps(names)[1:-1]}"
    for m in plan.modules:
        yield f"module {m.name or 'itself'} {m.kind} | {geometry_text(m.geometry)} > {geometry_text(m.new_geometry)}"


def wording_lines(plan: Any) -> Iterator[str]:
    """What a plan says: its options, its reasons with a tensor that each is of, and its warnings."""
    asked = {k: _rounded(v) for k, v in sorted(plan.options.items()) if USUAL.get(k) != v}
    yield " ".join(["options", *(f"{k}={json.dumps(v, separators=(',', ':'))}" for k, v in asked.items())])
    reasons: dict[str, list[str]] = {}
    for c in (*plan.changes, *plan.modules):
        reasons.setdefault(c.reason, []).append(c.name)
    for reason, names in reasons.items():
        yield f"{len(names)}x {json.dumps(reason)[1:-1]} ({json.dumps(names[0])[1:-1]})"
    for warning in plan.warnings:
        yield f"warning {json.dumps(warning)[1:-1]}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(number(value))
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def written(cases: Iterable[Case]) -> tuple[str, str]:
    """What all cases decide, and what they say. Whatever is refused is a case, too.

    A title that begins with '+' lists every tensor that stays.
    """
    from rekernel import RekernelError

    plans, wording = [], []
    for title, make in cases:
        whole, title = title.startswith("+"), title.removeprefix("+")
        try:
            made = make()
        except RekernelError as error:
            plans += [f"== {title}", "refused", ""]
            wording += [f"== {title}", f"refused: {json.dumps(str(error))[1:-1]}", ""]
            continue
        for part, plan in (made if isinstance(made, dict) else {"": made}).items():
            head = f"== {title}" + (f" [{part}]" if part else "")
            plans += [head, *plan_lines(plan, kept=whole), ""]
            wording += [head, *wording_lines(plan), ""]
    return _collapsed(plans), _collapsed(wording)


def _collapsed(lines: list[str]) -> str:
    """The lines; a case that is like one before names it instead. Options stay: they differ from case to case."""
    seen: dict[str, str] = {}
    out = []
    for head, *body in _cases(lines):
        options = [line for line in body if line.startswith("options ")]
        rest = "\n".join(line for line in body if not line.startswith("options "))
        title = head.removeprefix("== ")
        first = seen.setdefault(rest, title)
        shorter = first != title and len(first) + 5 < len(rest)
        out.append("\n".join([head, *options, f"like {first}" if shorter else rest, ""]))
    return "\n".join(out)


def _cases(lines: list[str]) -> Iterator[list[str]]:
    case: list[str] = []
    for line in lines:
        if line:
            case.append(line)
        elif case:
            yield case
            case = []
