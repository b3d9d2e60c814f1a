"""Define the rows of the diffusion benchmark: the guidance and the kernels attached to the sampler in each row.

Scope: guidance and kernels of `rekernel.diffusion`. Not here: sampling (see `diffusion`) and metrics (see
`diffusion_metrics`). The ablations (without matched time, or without matched power) are schedules with wrong values, so
that the tested code is the shipped code.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rekernel.diffusion import DiscreteSchedule, SupersampledKernels, UpsampleGuidance

PAPER: dict[str, Any] = {"theta": 1.0, "eta": 1.0, "enlarge": "nearest"}  # as published: (theta, eta) and U
SMOOTH: dict[str, Any] = {**PAPER, "enlarge": "cubic"}
GATE = 0.7  # share of the schedule with rescaled kernels in the gated rows


@dataclass(frozen=True)
class Row:
    """One way of sampling.

    kernels, guidance : arguments of `SupersampledKernels` and `UpsampleGuidance`; None attaches nothing
    ablation : 'no tau' or 'no P', the part of guidance that is left out
    enlarged : whether samples are made at the trained size and then enlarged bicubically
    cfg : scale of classifier-free guidance; 1 turns it off
    true : whether the row has true glyphs instead of samples, for the least distance that a set of this size has
    """

    name: str
    kernels: dict[str, Any] | None = None
    guidance: dict[str, Any] | None = None
    ablation: str = ""
    enlarged: bool = False
    cfg: float = 1.0
    true: bool = False
    group: str = field(default="", compare=False)

    @contextmanager
    def attached(self, pipe: Any, scale: int) -> Iterator[None]:
        """The pipeline with this row's kernels and guidance on it."""
        with ExitStack() as stack:
            if self.kernels is not None:
                stack.enter_context(SupersampledKernels(scale, **self.kernels).attach(pipe))
            if self.guidance is not None:
                options = dict(self.guidance)
                if self.ablation:
                    table = pipe.scheduler.alphas_cumprod.double().numpy()
                    options |= {"schedule": ABLATIONS[self.ablation](table, scale)}
                stack.enter_context(UpsampleGuidance(scale, **options).attach(pipe))
            yield


class WithoutTime(DiscreteSchedule):
    """A schedule that gives the low-resolution pass the time of the full-size pass, with a correct input scale."""

    def __init__(self, table: ArrayLike, factor: float) -> None:
        super().__init__(table)
        self._shift = 2 * np.log(factor)

    def time(self, log_snr: ArrayLike) -> NDArray[np.float64]:
        return super().time(np.asarray(log_snr) - self._shift)


class WithoutPower(DiscreteSchedule):
    """Leaves the reduced image as it is, at the right time. Noise predictions ask for no other coefficient."""

    def __init__(self, table: ArrayLike, factor: float) -> None:
        super().__init__(table)

    def alpha(self, log_snr: ArrayLike) -> NDArray[np.float64]:
        return np.ones_like(np.asarray(log_snr, np.float64))

    def sigma(self, log_snr: ArrayLike) -> NDArray[np.float64]:
        return np.zeros_like(np.asarray(log_snr, np.float64))


ABLATIONS: dict[str, Any] = {"no tau": WithoutTime, "no P": WithoutPower}


def _kernel_rows() -> list[Row]:
    """Each method on all layers, the inner ones, and these for the noisier part of the schedule."""
    where: dict[str, dict[str, Any]] = {
        "all": {"layers": "all"},
        "inner": {},
        f"inner, until {GATE:g}": {"until": GATE},
    }
    methods = {"dilated": "dilate", "nearest": "nearest", "linear": "linear", "cubic": "cubic", "optimal": "optimal"}
    return [
        Row(f"{name} {place}", {"method": method, **options}, group="kernels")
        for name, method in methods.items()
        for place, options in where.items()
    ]


def _with_guidance(name: str, **guidance: Any) -> list[Row]:
    """Guidance on top of each choice of kernels."""
    kernels: dict[str, dict[str, Any] | None] = {
        "": None,
        " + dilated inner": {"method": "dilate"},
        " + optimal inner": {},
        " + optimal inner, dense taps": {"form": "dense"},
    }
    guidance = {**PAPER, **guidance}
    return [Row(f"{name}{more}", choice, guidance, group="guidance") for more, choice in kernels.items()]


def _stronger() -> list[Row]:
    """More weight, U without blocks; kernels everywhere or while the large shapes are drawn."""
    kernels: dict[str, dict[str, Any] | None] = {
        "": None,
        " + dilated inner": {"method": "dilate"},
        " + optimal inner": {},
        " + dilated inner, until 0.5": {"method": "dilate", "until": 0.5},
        " + optimal inner, until 0.5": {"until": 0.5},
    }
    return [
        Row(f"guidance ({theta:g}, 1), smooth U{more}", choice, {**SMOOTH, "theta": theta}, group="guidance")
        for theta in (1.5, 1.9)
        for more, choice in kernels.items()
    ]


def _classifier_free() -> list[Row]:
    """The same with classifier-free guidance of 2, with which the model's own digits are the surest."""
    best: dict[str, Any] = {**SMOOTH, "theta": 1.5}
    options: dict[str, Any] = {"cfg": 2.0, "group": "classifier-free"}
    return [
        Row("cfg 2: trained size, enlarged bicubically", enlarged=True, **options),
        Row("cfg 2: untouched", **options),
        Row("cfg 2: guidance (1, 1) + optimal inner", {}, PAPER, **options),
        Row("cfg 2: guidance (1.5, 1), smooth U", None, best, **options),
        Row("cfg 2: guidance (1.5, 1), smooth U + optimal inner", {}, best, **options),
        Row("cfg 2: guidance (1.5, 1), smooth U + optimal inner, until 0.5", {"until": 0.5}, best, **options),
    ]


TWICE: list[Row] = [
    Row("true glyphs", true=True, group="plain"),
    Row("trained size, enlarged bicubically", enlarged=True, group="plain"),
    Row("untouched", group="plain"),
    *_kernel_rows(),
    *_with_guidance("guidance (1, 1)"),
    *_with_guidance("guidance (1.3, 1)", theta=1.3),
    Row("guidance (1, 0.6)", None, {**PAPER, "eta": 0.6}, group="guidance"),
    Row("guidance (1, 0.6) + optimal inner", {}, {**PAPER, "eta": 0.6}, group="guidance"),
    Row("guidance (1, 1), smooth U", None, SMOOTH, group="guidance"),
    Row("guidance (1, 1), smooth U + optimal inner", {}, SMOOTH, group="guidance"),
    Row("guidance (1.3, 1), smooth U + optimal inner", {}, {**SMOOTH, "theta": 1.3}, group="guidance"),
    *_stronger(),
    Row("guidance (1, 1) + cubic inner", {"method": "cubic"}, PAPER, group="guidance"),
    Row("guidance (1, 1) without tau", None, PAPER, "no tau", group="ablations"),
    Row("guidance (1, 1) without P", None, PAPER, "no P", group="ablations"),
    Row("SNR-matched rescaled network", None, {**PAPER, "predictor": "rescaled"}, group="guidance"),
    Row("SNR-matched rescaled network + optimal inner", {}, {**PAPER, "predictor": "rescaled"}, group="guidance"),
    *_classifier_free(),
]

# What the targets are about: `diffusion.py --decisive` draws more of these.
DECISIVE = (
    "true glyphs",
    "trained size, enlarged bicubically",
    "untouched",
    "guidance (1, 1)",
    "guidance (1, 1) + dilated inner",
    "guidance (1, 1) + optimal inner",
    "guidance (1.5, 1), smooth U",
    "guidance (1.5, 1), smooth U + dilated inner",
    "guidance (1.5, 1), smooth U + optimal inner",
    "guidance (1.5, 1), smooth U + dilated inner, until 0.5",
    "guidance (1.5, 1), smooth U + optimal inner, until 0.5",
)


def _nested() -> list[Row]:
    """Nested guidance with each choice of kernels at the top (4x) and in the middle (2x)."""
    choices: dict[str, Any] = {"untouched": None, "dilated": "dilate", "optimal": "optimal"}
    rows = [
        Row(f"nested: {top} / {middle}", {"method": {4: choices[top], 2: choices[middle]}}, PAPER, group="nested")
        for top in choices
        for middle in choices
    ]
    best = {"method": {4: "dilate", 2: "optimal"}}
    return [
        *rows,
        Row("nested (1.3, 1): dilated / optimal", best, {**PAPER, "theta": 1.3}, group="nested"),
        Row("nested: dilated / optimal, smooth U", best, SMOOTH, group="nested"),
        Row("nested: optimal / optimal, smooth U", {}, SMOOTH, group="nested"),
        Row("nested (1.3, 1): optimal / optimal, smooth U", {}, {**SMOOTH, "theta": 1.3}, group="nested"),
        Row("nested (1.3, 1): dilated / optimal, smooth U", best, {**SMOOTH, "theta": 1.3}, group="nested"),
        *_nested_stronger(),
    ]


def _nested_stronger() -> list[Row]:
    """More weight at each level, U without blocks."""
    kernels: dict[str, dict[str, Any] | None] = {
        "untouched / untouched": None,
        "untouched / optimal": {"method": {4: None, 2: "optimal"}},
        "optimal / optimal": {},
        "dilated / dilated until 0.5": {"method": "dilate", "until": 0.5},
        "optimal / optimal until 0.5": {"until": 0.5},
    }
    return [
        Row(f"nested ({theta:g}, 1): {name}, smooth U", choice, {**SMOOTH, "theta": theta}, group="nested")
        for theta in (1.3, 1.5)
        for name, choice in kernels.items()
        if (theta, choice) != (1.3, {})  # is above
    ]


FOUR_TIMES: list[Row] = [
    Row("true glyphs", true=True, group="plain"),
    Row("trained size, enlarged bicubically", enlarged=True, group="plain"),
    Row("untouched", group="plain"),
    Row("dilated inner", {"method": "dilate"}, group="kernels"),
    Row("optimal inner", {}, group="kernels"),
    Row("guidance (1, 1) in one step", None, {**PAPER, "levels": 1}, group="guidance"),
    Row("guidance in one step + optimal inner", {}, {**PAPER, "levels": 1}, group="guidance"),
    *_nested(),
]

EIGHT_TIMES: list[Row] = [
    Row("untouched", group="plain"),
    Row("nested (1.5, 1): untouched, smooth U", None, {**SMOOTH, "theta": 1.5}, group="nested"),
    Row("nested (1.5, 1): optimal until 0.5, smooth U", {"until": 0.5}, {**SMOOTH, "theta": 1.5}, group="nested"),
]

ROWS: dict[int, list[Row]] = {2: TWICE, 4: FOUR_TIMES, 8: EIGHT_TIMES}
