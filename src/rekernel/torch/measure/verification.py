"""Measure a rescaled network against its original in every way that needs no training data, and judge it.

Scope: two modules, pictures, and what is compared. Not here: the words of the verdict (see `torch.measure.verdict`),
the page that shows it (see `torch.report`), and diffusion networks (see `rekernel.diffusion`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import RekernelError
from ...plan.changes import LayerChange, ModuleChange
from ...plan.plan import Plan
from ...resampling.geometry import is_whole
from ..editing.apply import PLAN
from ..running import Forward
from ..surroundings import own_precision
from ..tracing.eval_mode import evaluating
from .compare import LayerError, layer_errors
from .difference import Difference, Tally, reduced_by_hand
from .equivariance import answer, on_the_grid_of, plan_scales, reduce_grid
from .examples import Example, shown_examples
from .finite import for_json
from .kernel_views import KernelView, kernel_view
from .scores import Scores, checked_labels, scores
from .shift import ShiftSensitivity, shift_sensitivity, total_stride
from .verdict import Verdict, verdict_of

_BATCH = 64
_SOME = 128  # pictures for single layers and for moves
_KERNELS = 6  # layers whose kernels are kept for the report


@dataclass(frozen=True)
class Verification:
    """What `verify` measured.

    size, new_size : the trained size and the new one, (H, W) or as many axes as the pictures have
    count : number of pictures
    pictures : False where noise stands for pictures
    converted : difference of the rescaled network from the original on the reduced pictures
    by_hand : the control: the original on pictures that a cubic filter reduced, instead of area averages
    untouched : the original on the pictures as they are; None where it does not run at the new size
    shift : the original when the picture moves by one trained pixel; None where the size allows no such move
    strided : names of strided layers that keep their stride on the finer grid, and so see moved pictures
    phase_shift, phase, stride : the original when the picture moves by `phase` trained pixels, as those layers see it
        at the farthest, for a total stride of `stride`; None and empty where no layer does
    layers : error of every layer
    recalibrated : whether batch norm has other statistics than in the original
    gives_image : whether the answers are a grid
    scores : accuracy of 'original' and 'converted', where labels are given
    kernels : kernels of the worst rescaled layers, before and after
    examples : some pictures with their answers, those that changed first
    notes : what the reader has to know about the input
    """

    size: tuple[int, ...]
    new_size: tuple[int, ...]
    count: int
    pictures: bool
    converted: Difference
    by_hand: Difference
    untouched: Difference | None
    shift: ShiftSensitivity | None
    strided: tuple[str, ...]
    phase_shift: ShiftSensitivity | None
    phase: tuple[float, ...]
    stride: tuple[int, ...]
    layers: tuple[LayerError, ...]
    recalibrated: bool
    gives_image: bool
    scores: Mapping[str, Scores] = field(default_factory=dict)
    kernels: tuple[KernelView, ...] = field(default=(), repr=False)
    examples: tuple[Example, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What the figures mean."""
        return verdict_of(
            self.converted, self.by_hand, self.untouched, self.count,
            pictures=self.pictures, gives_image=self.gives_image, strided=bool(self.strided),
            not_finite=next((layer.name for layer in self.layers if not math.isfinite(layer.error)), None),
        )  # fmt: skip

    @property
    def worst(self) -> tuple[LayerError, ...]:
        """The layers, the largest error first, after those whose outputs are not finite."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.error if math.isfinite(layer.error) else -math.inf))

    def to_html(self, title: str = "Rescaled against original", *, command: bool = False) -> str:
        """The report as one HTML page that needs no other file and no network. Needs Jinja and Pillow.

        Parameters
        ----------
        title : str
            The heading.
        command : bool
            Name options of the command in place of arguments.
        """
        from ..report.page import page

        return page(self, title, command=command)

    def save_report(self, path: str | Path, title: str = "Rescaled against original", *, command: bool = False) -> None:
        """Write the page of `to_html` to a file."""
        Path(path).write_text(self.to_html(title, command=command), encoding="utf-8")

    def as_dict(self) -> dict[str, Any]:
        """Everything but kernels and pictures, ready for JSON: None in place of NaN and infinity."""
        verdict = self.verdict
        found: dict[str, Any] = {
            "size": list(self.size),
            "new_size": list(self.new_size),
            "count": self.count,
            "pictures": self.pictures,
            "verdict": {"grade": verdict.grade, "text": verdict.on_command_line()},
            "error": self.converted.error,
            "kept": self.converted.kept,
            "by_hand": asdict(self.by_hand),
            "untouched_error": None if self.untouched is None else self.untouched.error,
            "untouched": None if self.untouched is None else asdict(self.untouched),
            "layers": [asdict(layer) for layer in self.layers],
            "recalibrated": self.recalibrated,
            "strided": list(self.strided),
            "shift": _shift_as_dict(self.shift, tuple(float(n > 1) for n in self.size)),
            "phase_shift": _shift_as_dict(self.phase_shift, self.phase),
            "notes": list(self.notes),
        }
        if found["phase_shift"] is not None:
            found["phase_shift"]["stride"] = list(self.stride)
        if self.scores:
            found["scores"] = {name: asdict(score) for name, score in self.scores.items()}
        result: dict[str, Any] = for_json(found)
        return result


def verify(
    model: nn.Module,
    rescaled: nn.Module,
    x: Tensor,
    *,
    size: tuple[int, ...] | None = None,
    labels: Sequence[int] | NDArray[Any] | Tensor | None = None,
    forward: Forward | None = None,
    pictures: bool = True,
    classes: Mapping[int, str] | None = None,
    notes: Sequence[str] = (),
) -> Verification:
    """Compare a rescaled network with its original on pictures of the new size, and judge the difference.

    The original runs on the pictures reduced to the trained size by area averages; D is this average, too, where
    answers are a grid. Three controls are run beside it: the original on pictures that a cubic filter reduced, the
    original at the new size, and the original on pictures that moved. The verdict compares with them (ours;
    docs/verify.md).

    Parameters
    ----------
    model : nn.Module
        The original.
    rescaled : nn.Module
        The module that `rescale` or `load` returned.
    x : (N, C, *spatial) Tensor
        Pictures of the new size, normalised as in training.
    size : tuple of int, optional
        The trained size; by default the size of `x` divided by the scale in the plan.
    labels : N whole numbers, optional
        The true class of each picture, for accuracy and macro F1.
    forward : callable, optional
        How to run a model on a batch, `forward(model, x)`; by default `model(x)`. The first tensor of what it
        returns is compared.
    pictures : bool
        False where `x` is noise that stands for pictures: then answers are not counted.
    classes : mapping, optional
        Names of the classes, for the report.
    notes : sequence of str
        Sentences about the input, which the report repeats.

    Returns
    -------
    Verification

    Raises
    ------
    RekernelError
        If a network does not run at its size, if the outputs cannot be compared, or if the labels do not fit.

    Examples
    --------
    >>> from rekernel.torch import rescale
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    >>> larger = rescale(model, 2, torch.zeros(1, 1, 16, 16))
    >>> found = verify(model, larger, torch.rand(8, 1, 32, 32))
    >>> found.verdict.grade, found.size, found.converted.kept
    ('same', (16, 16), 1.0)
    """
    if x.ndim < 3 or len(x) == 0:
        raise RekernelError(f"x has shape {tuple(x.shape)}; pass at least one picture, (N, C, *spatial)")
    if size is None:
        size = tuple(round(n / s) for n, s in zip(x.shape[2:], plan_scales(rescaled, x.ndim - 2), strict=True))
    truth = None if labels is None else checked_labels(labels, len(x))
    with own_precision(), evaluating(model, rescaled), torch.no_grad():
        tallies, gives_image, outputs = _answers(model, rescaled, x, size, forward)
        if truth is not None and not tallies["converted"].classifies:
            raise RekernelError(f"labels need a classifier, and the outputs are {outputs}, not (N, classes)")
        differences = {name: tally.found(len(x)) for name, tally in tallies.items()}
        layers = tuple(layer_errors(model, rescaled, x[:_SOME], size, forward=forward))
        shift, strided, phase_shift, phase, stride = _moves(model, rescaled, x[:_SOME], size, forward)
        examples = shown_examples(model, rescaled, x, size, tallies, forward, truth, classes or {}) if pictures else ()
    both = {} if truth is None else {
        name: scores(tallies[which].classes.numpy(), truth, outputs[-1])
        for name, which in (("original", "original"), ("converted", "converted"))
    }  # fmt: skip
    return Verification(
        size=size, new_size=tuple(x.shape[2:]), count=len(x), pictures=pictures,
        converted=differences["converted"], by_hand=differences["by_hand"], untouched=differences.get("untouched"),
        shift=shift, strided=strided, phase_shift=phase_shift, phase=phase, stride=stride, layers=layers,
        recalibrated=_recalibrated(model, rescaled), gives_image=gives_image, scores=both,
        kernels=_kernels(model, rescaled, layers), examples=examples, notes=tuple(notes),
    )  # fmt: skip


def _answers(
    model: nn.Module, rescaled: nn.Module, x: Tensor, size: tuple[int, ...], forward: Forward | None
) -> tuple[dict[str, Tally], bool, tuple[int, ...]]:
    """Sums over all batches for the rescaled network and the controls; whether answers are grids, and their shape."""
    tallies = {name: Tally() for name in ("original", "converted", "by_hand", "untouched")}
    shape: tuple[int, ...] = ()
    for part in torch.split(x, _BATCH):
        small = answer(model, reduce_grid(part, size), "the original", forward)
        shape = (len(x), *small.shape[1:])
        tallies["original"].add(small, small)
        large = answer(rescaled, part, "the rescaled model", forward)
        tallies["converted"].add(on_the_grid_of(large, small), small)
        tallies["by_hand"].add(answer(model, reduced_by_hand(part, size), "the original", forward), small)
        if "untouched" not in tallies:
            continue
        try:
            tallies["untouched"].add(on_the_grid_of(answer(model, part, "", forward), small), small)
        except (RuntimeError, ValueError):  # many networks do not run at another size
            del tallies["untouched"]
    return tallies, len(shape) > 2 and any(n > 1 for n in shape[2:]), shape


def _moves(
    model: nn.Module, rescaled: nn.Module, x: Tensor, size: tuple[int, ...], forward: Forward | None
) -> tuple[ShiftSensitivity | None, tuple[str, ...], ShiftSensitivity | None, tuple[float, ...], tuple[int, ...]]:
    """What the original does when the picture moves by a trained pixel, and as supersampled strided layers see it."""
    shift = phase_shift = None
    with suppress(RekernelError):  # an axis of the data may have no whole number of pixels for a trained one
        shift = shift_sensitivity(model, x, tuple(float(n > 1) for n in size), size=size, forward=forward)
    strided = supersampled_strides(rescaled)
    scales = tuple(new / old for new, old in zip(x.shape[2:], size, strict=True))
    if not strided or not all(map(is_whole, scales)):
        return shift, strided, None, (), ()
    stride = total_stride(model, reduce_grid(x[:1], size), forward=forward)
    # The phase q that is farthest from 0 is the picture moved by q T of its own pixels, here in trained ones.
    phase = tuple(t * (round(s) // 2) / s for t, s in zip(stride, scales, strict=True))
    if any(phase) and all(p < n for p, n in zip(phase, size, strict=True)):
        phase_shift = shift_sensitivity(model, x, phase, size=size, forward=forward)
    return shift, strided, phase_shift, phase, stride


def supersampled_strides(rescaled: nn.Module) -> tuple[str, ...]:
    """Names of the strided convolutions and poolings that keep their stride on the finer grid."""
    plan: Plan | None = getattr(rescaled, PLAN, None)
    if plan is None:
        return ()
    layers = [c for c in plan.changed if c.kind == "conv" and c.mode == "supersample"]
    pools = [m for m in plan.modules if m.kind in ("max-pool", "avg-pool") and m.geometry]
    both: list[LayerChange | ModuleChange] = [*layers, *pools]
    return tuple(
        change.name
        for change in both
        if any(g.stride > 1 for g in change.geometry)
        and [g.stride for g in change.geometry] == [g.stride for g in change.new_geometry]
    )


def _recalibrated(original: nn.Module, rescaled: nn.Module) -> bool:
    """Whether batch norm layers of the rescaled model have other statistics than those of the original."""
    old = dict(original.named_buffers())
    return any(
        name.endswith("running_mean") and name in old and not torch.equal(old[name], value.to(old[name].dtype))
        for name, value in rescaled.named_buffers()
    )


def _kernels(model: nn.Module, rescaled: nn.Module, layers: Sequence[LayerError]) -> tuple[KernelView, ...]:
    """Views of the rescaled layers with the largest errors, in the order of the plan."""
    plan: Plan | None = getattr(rescaled, PLAN, None)
    if plan is None:
        return ()
    errors = {layer.name: layer.error for layer in layers}
    weights = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    changed = sorted(plan.changed, key=lambda change: -errors.get(change.name.rpartition(".")[0], 0.0))
    views: list[KernelView] = []
    for change in changed:
        view = kernel_view(change, weights) if len(views) < _KERNELS else None
        if view is not None:
            views.append(view)
    order = {change.name: number for number, change in enumerate(plan.changed)}
    return tuple(sorted(views, key=lambda view: order[view.name]))


def _shift_as_dict(found: ShiftSensitivity | None, pixels: Sequence[float]) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "pixels": list(pixels),
        "change": found.change,
        "agreement": found.agreement,
        "note": found.note,
        "shifts": [asdict(shift) for shift in found.shifts],
    }
