"""Tell what a plan promises: the trained answer exactly, exactly at every phase, or about the same on smooth pictures.

Source: docs/mathematics.md, "What a rescaled network computes" (ours).
Scope: plans and the functions of a pass. Not here: running a model (see `checking.by_running`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from torch import nn

from ...plan.changes import LayerChange
from ...plan.plan import Plan
from ...planning.roles import ABSORB
from ...resampling.geometry import is_whole
from ..layers.module_names import changed_modules, owner_of
from ..tracing.run import Trace
from ..tracing.steps import Step
from .function_names import AT_EVERY_PHASE, plain_name

Promise = Literal["exact", "phases", "smooth"]


def promise_of(plan: Plan, seen: Trace, modules: Mapping[str, nn.Module], *, aligned: bool) -> Promise:
    """What the plan of a traced model promises.

    Parameters
    ----------
    aligned : bool
        Whether pixel 0 stays pixel 0 on every grid, without which no phase is that of the trained network.

    Returns
    -------
    'exact'
        N'(x) = N(D x) with D the mean of each area (or what resamples the image in front), for every x.
    'phases'
        Every s-th pixel of each grid is what the trained network gives, as far as `same_at_phases` says.
    'smooth'
        About the same on pictures that vary slowly.
    """
    if plan.resamples:
        return "exact"
    scales = plan.scale if isinstance(plan.scale, tuple) else (plan.scale,)
    if not plan.changed or not all(map(is_whole, scales)):
        return "smooth"
    readers = {call.weight for call in seen.calls if call.sources == {0}}
    reads = [c for c in plan.changed if c.name in readers and _by_area(c) and _padded_with_zeros(c, modules)]
    others = [c for c in plan.changed if c not in reads]
    if not others and not plan.modules and all(c.mode == ABSORB for c in reads):
        return "exact"
    pools = all(m.kind.endswith("pool") for m in plan.modules)
    if aligned and pools and all(o.method == "dilate" for c in others for o in c.resamplings):
        return "phases"
    return "smooth"


def _by_area(change: LayerChange) -> bool:
    return all(o.method in ("area", "nearest") and o.gain == "dc" for o in change.resamplings)


def _padded_with_zeros(change: LayerChange, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer pads with zeros or around the image: a reflection of the larger image is not the larger one."""
    mode = change.by_hand_mode or getattr(modules.get(owner_of(change.name)), "padding_mode", "zeros")
    return mode in ("zeros", "constant", "circular")


def same_at_phases(seen: Trace, plan: Plan) -> Callable[[str], bool]:
    """Tell of a module whether its output is promised at every phase: only functions of one phase come before."""
    steps = seen.log.steps
    changed = changed_modules(plan)
    end = next((n for n, step in enumerate(steps) if not _of_one_phase(step, changed)), len(steps))
    padded = {steps[n].module for n in seen.log.handled}  # the layer behind makes up for what is missing there
    return lambda module: module not in padded and seen.done.get(module, end + 1) <= end


def _of_one_phase(step: Step, changed: Collection[str]) -> bool:
    """Whether a function does to each phase what it did to the trained grid; `changed` are the modules of the plan."""
    name = plain_name(step.name)
    if name == "pad":
        mode = step.args[2] if len(step.args) > 2 else step.kwargs.get("mode", "constant")
        return mode in ("constant", "circular")
    if "pool" in name or "conv" in name:  # one that is called as a function stays as it was
        kernel = step.operands[1].shape[2:] if "conv" in name and len(step.operands) > 1 else (2,)
        return name in AT_EVERY_PHASE and (step.module in changed or max(kernel, default=1) == 1)
    return name in AT_EVERY_PHASE
