"""Check a rescaled model by running it: probes go through the trained and the rescaled network.

Scope: which probes, and what their answers say. Not here: the probes (see `checking.pictures`), the measures (see
`checking.deviations`), and what a plan promises (see `checking.promises`).
Bounds: chosen on generated networks. By them broken rules are caught (tests/torch/checking/test_mutations.py) and few
other networks are warned of (test_generated.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import cause, shown
from ...plan.plan import Plan
from ..layers.module_names import owner_of
from ..layers.resample_image import resampler
from ..planning.planner import Planned
from ..tracing.run import Trace
from .answers import Answers, answers
from .deviations import at_phase_0, displacement, equal, exact_bound, inner, reduced, smooth
from .layer_probes import LayerProbe, first_moved, first_wrong, layer_probes
from .pictures import CYCLES, Inputs
from .promises import promise_of, same_at_phases

FROM_SMOOTH = 0.3
"""Bound on the error of the answer to a smooth picture."""
BESIDE = 0.2
"""Bound on how far the features lie beside their place, in new pixels."""
FLAT = 0.3
"""Bound on the error of the answer to a picture of one value for each channel, far from the border."""
_ZERO = 1e-6  # outputs below are rounding


@dataclass
class Check:
    """The answers of the trained model, kept until the rescaled one can be asked.

    inputs : the arguments of the model
    plan : the plan
    seen : trace of the trained model
    promise : what the plan promises
    offsets : for each module, how far its features lie beside their place by the plan, in new pixels
    before : answers of the trained model, by probe
    probes : the inputs at the new size, by probe
    layers : probes of single layers
    failed : why nothing can be checked; empty if it can
    """

    inputs: Inputs
    plan: Plan
    seen: Trace
    promise: str
    offsets: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    before: dict[str, Answers] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    layers: list[LayerProbe] = field(default_factory=list)
    failed: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    text : the finding in a few words, as a plan shows it
    warning : what is wrong, naming the first layer that deviates; empty if nothing is
    broken : whether an identity that was promised does not hold
    ran : whether both models ran
    stopped : the error that the rescaled model ended in; empty if it ran
    """

    text: str
    warning: str = ""
    broken: bool = False
    ran: bool = True
    stopped: str = ""


def ask_before(model: nn.Module, seen: Trace, inputs: Inputs, planned: Planned) -> Check:
    """Run the trained model on the probes that its plan calls for."""
    plan = planned.plan
    promise = promise_of(plan, seen, dict(model.named_modules()), aligned=planned.aligned)
    check = Check(inputs, plan, seen, promise, planned.offsets)
    tensors = (*model.parameters(), *model.buffers(), *inputs.values)
    if any(isinstance(t, Tensor) and t.device.type == "meta" for t in tensors):
        check.failed = "the model has no values (meta device)"
        return check
    pairs: dict[str, Any] = {}
    if promise == "exact":
        resample = resampler(plan)
        pairs["noise"] = inputs.noise(resample.reduced if resample is not None else None)
    else:
        if promise == "phases":
            pairs["noise"] = inputs.blocks()
        pairs |= {"smooth": inputs.smooth(cycles(seen)), "flat": inputs.flat()}
    try:
        for name, ((args, kwargs), large) in pairs.items():
            check.before[name], check.probes[name] = answers(model, args, kwargs), large
        first = next(iter(check.before))
        args, kwargs = pairs[first][0]
        again = answers(model, args, kwargs, seed=1).outputs
    except Exception as error:  # the model's code may not take these values
        check.failed = f"the model does not run on a probe: {cause(error)}"
        return check
    once = check.before[first].outputs
    if not once or not bool(once[0].isfinite().all()):
        check.failed = "the model's answers to a probe are not finite" if once else "the model gives no tensor"
    elif len(once) != len(again) or not all(map(torch.equal, once, again)):
        check.failed = "the model draws random numbers"
    elif promise != "exact":
        check.layers = layer_probes(model, seen, planned)
    return check


def ask_after(check: Check, model: nn.Module) -> Verdict:
    """Run the rescaled model on the same probes, and compare."""
    if check.failed:
        return Verdict(f"not checked: {check.failed}")
    found = _compare(check, model)
    return replace(found, text=f"{found.text}, by {2 * len(check.probes) + 1} passes") if found.ran else found


def _compare(check: Check, model: nn.Module) -> Verdict:
    try:
        after = {name: answers(model, *probe) for name, probe in check.probes.items()}
    except Exception as error:
        return Verdict("the rescaled model does not run", ran=False, stopped=cause(error))
    if check.promise == "exact":
        return _exact(check, after["noise"])
    if wrong := first_wrong(check.layers, model):
        name, off = wrong
        where = _special(check, name)
        return Verdict(
            f"off by {off:.2g} where it should be exact",
            f"{where}: by itself it does not do to a picture with repeated pixels what the trained layer did; off by "
            f"{off:.2g}",
            broken=True,
        )
    broken = _phases(check, after["noise"]) if check.promise == "phases" else None
    return broken or _smooth(check, after, model)


def _exact(check: Check, after: Answers) -> Verdict:
    before = check.before["noise"]
    bound = exact_bound(before.dtype)
    error = _answer_error(before, after, equal)
    if error <= bound:
        return Verdict(f"exact to {error:.0e}" if error else "exact")
    first = _first(check, before, after, lambda a, b: (equal(a, b) or 0.0) > bound)
    text = f"the answer is not the trained one on the reduced image, by {error:.2g}, but should be"
    return Verdict(f"off by {error:.2g} where it should be exact", f"{first}{text}", broken=True)


def _phases(check: Check, after: Answers) -> Verdict | None:
    before, scales = check.before["noise"], check.inputs.scales
    promised = same_at_phases(check.seen, check.plan)
    bound = exact_bound(before.dtype)
    for name, old, new in _common(before, after):
        error = at_phase_0(old, new, scales) if promised(name) else None
        if error is not None and error > bound:
            where = _special(check, name)
            return Verdict(
                f"off by {error:.2g} where it should be exact",
                f"{where}: every pixel at phase 0 should be that of the trained network; off by {error:.2g}",
                broken=True,
            )
    return None


def _smooth(check: Check, after: Mapping[str, Answers], model: nn.Module) -> Verdict:
    scales, plan = check.inputs.scales, check.plan
    before, then = check.before["smooth"], after["smooth"]
    error = _answer_error(before, then, lambda a, b: reduced(a, b, scales))
    flat_before, flat_then = check.before["flat"], after["flat"]
    flat = _answer_error(flat_before, flat_then, lambda a, b: inner(a, b, scales))
    if error == float("inf"):
        shapes = [tuple(found.outputs[0].shape) for found in (before, then) if found.outputs]
        return Verdict("answers cannot be compared", f"the answers {' and '.join(map(str, shapes))} cannot be compared")
    text = f"smooth probe {percent(error)}"
    told = []
    if error > FROM_SMOOTH:
        first = _first(check, before, then, lambda a, b: (smooth(a, b, scales, border=0.2) or 0.0) > FROM_SMOOTH)
        told.append(f"{first}the answer to a smooth picture is off by {percent(error)}")
    elif FLAT < flat < float("inf"):
        first = _first(check, flat_before, flat_then, lambda a, b: (inner(a, b, scales) or 0) > FLAT)
        told.append(f"{first}the answer to a picture of one value is off by {percent(flat)}")
    dilated = any(o.method == "dilate" for c in plan.changed for o in c.resamplings)
    if check.seen.gives_image and check.promise == "smooth" and not dilated:
        told += _beside(check, before, then)
    if moved := first_moved(check.layers, model):
        told.append(f"{_special(check, moved[0])}: by itself it moves a slow wave by {moved[1]:.2f} new pixels")
    return Verdict(text, "; ".join(told))


def _beside(check: Check, before: Answers, after: Answers) -> list[str]:
    """The first module whose features lie beside the place that the plan gives them."""
    planned = {call.module for call in check.seen.calls}
    for name, old, new in _common(before, after):
        found = displacement(old, new, check.inputs.scales) if name in planned else None
        if found is None:
            continue
        known = check.offsets.get(name) or (0.0,) * len(found)
        off = [d + p for d, p in zip(found, known, strict=False)]
        if max(map(abs, off)) > BESIDE:
            listed = ", ".join(f"{d:.2f}" for d in off)
            return [f"{_special(check, name)}: its features lie {listed} new pixels beside their place"]
    return []


def cycles(seen: Trace) -> float:
    """Cycles across a picture that is smooth for a network: the coarsest grid has four cells for each."""
    coarsest = min((n for call in seen.calls for n in call.out_size if n > 1), default=8)
    return min(CYCLES, coarsest / 4)


def percent(share: float) -> str:
    """A share as text.

    Examples
    --------
    >>> percent(0.0134), percent(1.234)
    ('1.3 %', '123 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _answer_error(old: Answers, new: Answers, measure: Callable[[Tensor, Tensor], float | None]) -> float:
    """The largest error of all outputs; infinite where the first cannot be compared.

    Others that cannot be compared are left out, since code may give maps and lists for which no size is right.
    """
    errors = []
    for number, (a, b) in enumerate(zip(old.outputs, new.outputs, strict=False)):
        error = measure(a, b) if not _nothing(a, b) else 0.0
        if error is not None and error == error:
            errors.append(error)
        elif number == 0:
            errors.append(float("inf"))
    return max(errors, default=0.0)


def _nothing(old: Tensor, new: Tensor) -> bool:
    """Whether an output has no values, or zeros alone but for rounding, of which no share can be taken."""
    return not old.numel() or not new.numel() or max(float(old.abs().max()), float(new.abs().max())) < _ZERO


def _common(before: Answers, after: Answers) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The modules that both passes know, in the order in which they were done."""
    for name, old in before.modules.items():
        if name in after.modules:
            yield name, old, after.modules[name]


def _first(check: Check, before: Answers, after: Answers, off: Callable[[Tensor, Tensor], bool]) -> str:
    """The first module that deviates, as the start of a warning."""
    name = next((name for name, old, new in _common(before, after) if off(old, new)), None)
    return f"{_special(check, name)} is the first to deviate: " if name is not None else ""


def _special(check: Check, name: str) -> str:
    """A module, and what the plan does to it."""
    change = next((c for c in check.plan.changed if owner_of(c.name) == name), None)
    module = next((m for m in check.plan.modules if m.name == name), None)
    if change is not None:
        return f"{shown(name)} ({change.kind}, {change.resamplings[0].method}, {change.mode}s)"
    return f"{shown(name)} ({module.kind})" if module is not None else shown(name)


def refuse_broken(verdict: Verdict, model: str, notes: Sequence[str]) -> None:
    """Raise if the rescaled model does not run, or if an identity that was promised does not hold.

    Notes may tell already why an identity cannot hold. They do not excuse a model that ends in an error: the trained
    one ran on the same picture.
    """
    if verdict.stopped:
        raise RekernelError(
            f"{model}: rescaled, it does not run on a picture of the new size: {verdict.stopped}. Its code holds a "
            f"size that no layer shows; mode='absorb' lets nothing grow behind the layers that read the image"
        )
    if verdict.broken and not notes:
        raise RekernelError(
            f"{model}: {verdict.warning}, as the check by running shows. The model's code does something that its "
            f"layers do not show; pass mode='absorb', exclude that layer, or pass check=False to look at the result"
        )
