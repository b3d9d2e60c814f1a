"""Put the functions of a pass at the trained size beside those of a pass at the new size.

Scope: which calls belong together. Not here: whether a function keeps its meaning (see `checking.grown_functions`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

from ..tracing.run import Trace
from ..tracing.steps import Step
from .compensated import compensated
from .grown_functions import Pair, finding

_HERE = "the model itself"
_MOST = 1 << 22  # comparisons of names in one module


def changed_meanings(old: Trace, new: Trace, changed: Collection[str], scales: Sequence[float]) -> list[str]:
    """Notes about functions of the model's code that do not keep their meaning at the new size.

    Parameters
    ----------
    old, new : Trace
        The original at the trained size, and the rescaled model at the new size.
    changed : collection of str
        Paths of the modules that the plan changed: their functions differ for a reason.
    scales : sequence of float
        New pixels per old pixel, one per spatial axis of the image.
    """
    notes: dict[str, None] = {}
    before, after = _by_module(old.log.steps), _by_module(new.log.steps)
    for module, numbered in before.items():
        if any(module == name or module.startswith(f"{name}.") for name in changed if name):
            continue
        others = after.get(module, [])
        names, new_names = [step.name for _, step in numbered], [step.name for _, step in others]
        where = module or _HERE
        if len(names) != len(new_names) and new_names:
            notes[
                f"{where}: calls {len(new_names)} functions instead of {len(names)} at the new size: its code loops "
                f"over the grid, or takes another branch"
            ] = None
        batch = next((step.operands[0].shape[0] for _, step in numbered if step.operands and step.operands[0].shape), 1)
        pairs = [
            Pair(
                numbered[start + i][1], others[new_start + i][1], numbered[start + i][0] in old.log.handled,
                tuple(scales), batch,
            )
            for start, new_start, count in _matching(names, new_names) for i in range(count)
        ]  # fmt: skip
        right = compensated(pairs)
        for at, pair in enumerate(pairs):
            if at not in right and (text := finding(pair)):
                notes[f"{where}: {text}"] = None
    return list(notes)


def _matching(names: list[str], new_names: list[str]) -> Sequence[tuple[int, int, int]]:
    """Runs of functions that both passes call in the same order: where they start, and how long they are."""
    if names == new_names:  # nearly always
        return [(0, 0, len(names))]
    if len(names) * len(new_names) > _MOST:  # the search takes quadratic time: a loop with a step for each position
        alike = next((i for i, (a, b) in enumerate(zip(names, new_names, strict=False)) if a != b), len(names))
        alike = min(alike, len(new_names))
        return [(0, 0, alike)]
    return SequenceMatcher(None, names, new_names, autojunk=False).get_matching_blocks()


def _by_module(steps: Sequence[Step]) -> dict[str, list[tuple[int, Step]]]:
    found: dict[str, list[tuple[int, Step]]] = {}
    for number, step in enumerate(steps):
        found.setdefault(step.module, []).append((number, step))
    return found
