"""Make a plan from a trace.

Scope: selection, and putting a plan together. Not here: what happens from call to call (see `torch.planning.follow`),
and changing the model (see `torch.editing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from ...errors import Option
from ...patterns import select
from ...plan.plan import Plan
from ...planning.allowed_values import layer_modes
from ...planning.layers import NOT_RESCALED
from ...planning.roles import ABSORB, AUTO, checked_mode
from ...planning.settings import Request, Settings
from ..tracing.run import Trace
from .follow import Follower
from .grids import weight_of
from .held_sizes import held_sizes
from .own_calls import baked, own_calls, own_notes
from .pixel_norms import pixel_norms
from .reading import Reading
from .way_out import way_out, with_way_out


@dataclass(frozen=True)
class Planned:
    """A plan, and the grids that the rescaled model must have.

    plan : the plan
    sizes : output grid of the last call in each module, by the path of the module; the second pass checks it
    offsets : how far the result of each module lies beside its exact place, in new pixels, where it does
    arrived : scale of the grid that each call reads, by the index of the call
    made_up : offset of its input that a convolution makes up for, in new pixels, by the index of the call
    aligned : whether pixel 0 stays pixel 0 on every grid
    doubts : what may be wrong if the rescaled model does not run
    way_out : end of a message that tells what works instead; empty if nothing does
    absorbs : whether the layers that read the image absorb the scale or keep their patches, which was chosen here and
        not by the caller; if that does not work, the image can be resampled in front
    held : the note of the plan about the sizes that modules hold; empty if none changes
    more_tokens : whether a note of the plan says that more tokens are read
    """

    plan: Plan
    sizes: dict[str, tuple[int, ...]]
    offsets: dict[str, tuple[float, ...]]
    arrived: dict[int, tuple[float, ...]]
    made_up: dict[int, tuple[float, ...]]
    aligned: bool
    doubts: tuple[str, ...] = ()
    way_out: tuple[str | Option, ...] = ()
    absorbs: bool = False
    held: str = ""
    more_tokens: bool = False


def plan_model(
    model: nn.Module,
    trace: Trace,
    settings: Settings,
    scale: tuple[float, ...],
    *,
    form: str = "plain",
    mode: str = AUTO,
    modes: Mapping[str, str] | None = None,
    methods: Mapping[str, Mapping[str, Any]] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    in_front: str = "",
    predicts_noise: bool = False,
) -> Planned:
    """Decide what happens to every tensor and every pooling of a traced model.

    Parameters
    ----------
    model : nn.Module
    trace : Trace
        The trace of the model.
    settings : Settings
        Method, taps, gain, ...
    scale : tuple of float
        One per spatial axis of the input.
    form : {'plain', 'dense', 'factored', 'auto'}
    mode : {'auto', 'absorb', 'supersample'}
        Mode of the model.
    modes : {glob: 'supersample' | 'absorb'}, optional
        Modes of single layers, by layer name; the first match wins.
    methods : {glob: {'method' | 'taps' | ...: value}}, optional
        Settings of single layers, by layer name; the last match wins.
    include, exclude : patterns, optional
        On parameter names, as for `plan_checkpoint`.
    in_front : str, optional
        A reason to resample the image in front of the model, which stays as it is.
    predicts_noise : bool
        Whether the model is a noise predictor (see `inner_layers`).

    Returns
    -------
    Planned
    """
    names = list(model.state_dict())
    chosen = select(names, include, "include") if include is not None else set(names)
    excluded = set(names) - (chosen - select(names, exclude, "exclude"))
    per_layer = {pattern: checked_mode(each) for pattern, each in layer_modes(modes).items()}
    select(names, per_layer, "modes")
    each = Request(settings, overrides=methods, called="methods").each(names)
    by_path = dict(model.named_modules())
    trace, own = own_calls(trace, by_path)
    planner = Follower(model, trace, settings, scale, per_layer, excluded, form, predicts_noise, mode, own, each)
    if in_front:
        planner.reading = Reading(ABSORB, resample=in_front)
    with with_way_out(way_out(planner.reading, planner.network, latent=trace.latent)):
        planner.run()
        grids = {index: (size, planner.scales[index]) for index, size in planner.sizes.items()}
        norms, shapes = pixel_norms(model, trace, grids, settings, aligned=planner.aligned, excluded=excluded)
    for path in [path for path in own if _stays(planner, f"{path}.weight".removeprefix("."))]:
        if any(own.pop(path).crops):
            planner.expected.pop(path, None)  # its convolution goes on giving more than the layer
    planner.notes += own_notes({path: (by_path[path], found) for path, found in own.items()})
    planner.modules |= {path: baked(path) for path, found in own.items() if found.does == "computes"}
    planner.changes |= norms
    planner.modules |= shapes
    for name, change in list(planner.changes.items()):
        for other in planner.others[name]:
            planner.changes.setdefault(other, replace(change, name=other))
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue  # the extra state of a module
        if name not in planner.changes:
            planner.changes[name] = weight_of(name, tensor).kept(NOT_RESCALED)
    options = {k: v for k, v in asdict(settings).items() if v is not None}
    options |= {"scale": list(scale), "form": form, "size": list(trace.size)}
    ordered = tuple(planner.changes[name] for name in sorted(planner.changes))
    notes, modules = tuple(planner.notes), tuple(planner.modules.values())
    plan = Plan(ordered, type(model).__name__, options, notes, modules, "trace", scale, trace.size, form)
    held = held_sizes(model, plan)
    plan = replace(plan, warnings=(*notes, *filter(None, (held.note(), *held.notes))))
    offsets = {call.module: planner.offsets[call.index] for call in trace.calls if call.index in planner.offsets}
    outs = way_out(planner.reading, planner.network, latent=trace.latent)
    absorbs = planner.reading.keeps_patch or (planner.reading.mode == ABSORB and not planner.reading.resample)
    return Planned(
        plan, planner.expected, offsets, planner.arrived, planner.made_up, planner.aligned, tuple(planner.doubts), outs,
        absorbs, held.note(), planner.reading.keeps_patch,
    )  # fmt: skip


def _stays(planner: Follower, weight: str) -> bool:
    change = planner.changes.get(weight)
    return change is None or change.kept
