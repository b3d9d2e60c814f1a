"""Name the settings and hints of a caller that changed nothing, since a plan would keep silent about them.

Scope: patterns and settings beside a finished plan. Not here: values that no layer can have (see
`planning.allowed_values`), and patterns that match nothing (see `patterns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import Option
from ..escape import shell_word, shown
from ..messages.note import Note
from ..patterns import matcher
from ..plan.changes import LayerChange, ModuleChange
from ..resampling.methods import ALIASES, AUTO_METHOD, KEYS_A, for_grid, for_values
from ..text import few
from .settings import Hints, Settings

_DESIGNED = ("optimal", "optimal-filter")
_CUBIC = ("cubic", "pinv-cubic")
_GRIDS = ("linear_grid", "output_grid", "grid")


def without_effect(
    changes: Iterable[LayerChange],
    modules: Iterable[ModuleChange],
    settings: Settings,
    overrides: Mapping[str, Mapping[str, Any]] | None,
    hints: Hints | None = None,
) -> list[str]:
    """The notes about settings that no layer took over: of single layers, of all, and grids of layers that stay.

    Examples
    --------
    >>> stays = LayerChange.unchanged("conv2.weight", "F32", (8, 8, 3, 3), "another layer absorbs the scale")
    >>> without_effect([stays], [], Settings(2), {"conv2*": {"method": "cubic"}})
    ['method=cubic for conv2* has no effect: conv2.weight stays (another layer absorbs the scale)']
    """
    changes = list(changes)
    notes = []
    for pattern, values in (overrides or {}).items():
        matched = [change for change in changes if matcher(pattern)(change.name)]
        told = ", ".join(f"{key}={shown(str(value), 40)}" for key, value in values.items())
        if matched and all(change.kept for change in matched):
            notes.append(f"{told} for {shown(pattern)} has no effect: {_stay(matched)}")
        else:
            auto = values.get("method", settings.method) == AUTO_METHOD
            notes += _unused(values, matched, (), auto=auto, whose=f" for {shown(pattern)}")
    changed, others = [change for change in changes if not change.kept], [m for m in modules if m.method]
    if changed or others:
        notes += _unused(_given(settings), changed, others, auto=settings.method == AUTO_METHOD)
    for what in _GRIDS:
        for pattern in getattr(hints, what, ()):
            matched = [change for change in changes if matcher(pattern)(change.name)]
            if matched and all(change.kept for change in matched):
                notes.append(Note(_hint(what, pattern), f" has no effect: {_stay(matched)}"))
            elif matched and all(change.kind == "conv" for change in matched if change.operators):
                convolutions = few([shown(change.name) for change in matched if change.operators], 3)
                notes.append(Note(_hint(what, pattern), f" has no effect: {convolutions} reads no flattened grid"))
    return notes


def _given(settings: Settings) -> dict[str, Any]:
    """The settings of all layers that are not the defaults."""
    given = {"method": settings.method, "taps": settings.taps, "smoothness": settings.smoothness, "a": settings.a}
    defaults = {"method": AUTO_METHOD, "taps": None, "smoothness": None, "a": KEYS_A}
    return {key: value for key, value in given.items() if value != defaults[key]}


def _unused(
    values: Mapping[str, Any],
    matched: Sequence[LayerChange],
    modules: Sequence[ModuleChange],
    *,
    auto: bool,
    whose: str = "",
) -> list[str]:
    """Notes about the values that none of the layers took over; `auto` where the role of a layer gave its method."""
    changed = [change for change in matched if not change.kept]
    methods = {o.method for change in changed for o in change.resamplings} | {module.method for module in modules}
    became = few([f"{shown(change.name)} becomes {change.settings()}" for change in changed], 2)
    if not changed:
        became = "the image is resampled in front of the model"
    notes = []
    for key, value in values.items():
        if _took_over(key, value, changed, methods, auto=auto):
            continue
        more = "; taps count where a method is given, too" if key == "taps" and auto else ""
        notes.append(f"{key}={shown(str(value), 40)}{whose} has no effect: {became}{more}")
    return notes


def _took_over(key: str, value: Any, changed: Sequence[LayerChange], methods: set[str], *, auto: bool) -> bool:
    if key == "method":
        name = ALIASES.get(value, value)
        kin = {name, for_grid(name), for_values(name), *(_DESIGNED if name in _DESIGNED else ())}
        return name == AUTO_METHOD or not methods.isdisjoint(kin)
    if key == "smoothness":
        return not methods.isdisjoint(_DESIGNED)
    if key == "a":
        return not methods.isdisjoint(_CUBIC)
    if key != "taps" or value is None:
        return True
    if isinstance(value, str):
        return not auto or any(change.mode != "absorb" for change in changed)
    kernels = [o for change in changed for o in change.operators if o.geometry == "kernel"]
    return any(o.new == value for o in kernels) or any(change.factors for change in changed)


def _hint(what: str, pattern: str) -> Option:
    return Option(f"the hint {what} of {shown(pattern)}", f"--{what.replace('_', '-')} {shell_word(pattern)}")


def _stay(matched: Sequence[LayerChange]) -> str:
    """Which layers stay, and why: the reason of the first one that has spatial axes."""
    weights = [change for change in matched if len(change.shape) > 1] or list(matched)
    stay = "stays" if len(weights) == 1 else "stay"
    return f"{few([shown(change.name) for change in weights], 3)} {stay} ({weights[0].reason})"
