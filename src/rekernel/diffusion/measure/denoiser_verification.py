"""Compare a rescaled denoiser with the trained one, at single times of the noise schedule.

Scope: networks that predict noise, and what a rescaled one promises. Not here: networks that answer to pictures (see
`rekernel.torch.verify`), samples (see `rekernel sample`).

A noisy picture of the new size holds a noisy picture of the trained size: its area average D x, whose noise is weaker,
as it is at another time (`matching`). The trained network's clean estimate for it is what the low band of the rescaled
network's estimate should be. Above the low band there is nothing to compare with but the noise itself, which was put
there and is known: a kernel that smooths takes away the noise that it should predict. Both measures are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import Option, RekernelError
from ...escape import shown
from ...text import dims
from ...torch.measure.equivariance import plan_scales
from ...torch.measure.finite import first_not_finite, for_json
from ...torch.measure.verdict import SAME, Grade, percent
from ...torch.running import said_by
from ..denoiser.call import Call, read_call
from ..denoiser.scheduler_config import schedule_of
from ..formulas.low_band import Split
from ..formulas.matching import match
from ..formulas.predictions import to_x0
from ..formulas.schedules import NoiseSchedule

SHARES = (0.9, 0.6, 0.3, 0.1)
"""Where times are not given: shares of the schedule, from its clean end."""

_STEPS = 20  # of the trained network's own samples, which serve as pictures
SMOOTHED = 0.5
"""A prediction that is off by a larger share of the noise above the low band has smoothed the noise away. Measured on
two trained networks (benchmarks/real/verdicts.py): interpolated kernels in every layer are off by 0.79 to 0.97, all
other ways of rescaling, and the untouched networks, by at most 0.26."""

_TITLES: dict[Grade, str] = {
    "same": "The same predictions",
    "close": "Close: differs no more than by another draw of the noise",
    "changed": "Changed, but nearer than the untouched network",
    "no better": "No better than the untouched network",
}
_SAID: dict[Grade, str] = {
    "same": "The rescaled network predicts for the reduced pictures what the trained one predicts, up to rounding.",
    "close": "What the rescaled network draws coarsely is what the trained network draws at its own size.",
    "changed": "What the rescaled network draws coarsely is nearer to what the trained network draws at its own size "
    "than without rescaling, but not as near as with another draw of the noise.",
    "no better": "What the rescaled network draws is as far from what the trained network draws at its own size as "
    "without rescaling, or farther.",
}


@dataclass(frozen=True)
class AtTime:
    """The differences at one time.

    t : time, in the unit of the network
    matched : time of the reduced picture
    low_band : (alpha/sigma) ||D x0' - x0|| / ||D n||; x0' is the rescaled network's estimate of the clean picture, x0
        the trained network's for the reduced noisy picture, and D n the noise in the low band. So this is the
        difference of the predicted noise, relative to the noise that is there
    untouched : the same for the untouched network at the new size
    another_draw : the control, the same for the trained network when the picture gets other noise of the same strength
    above, untouched_above : ||n' - n|| / ||n|| of the predicted noise n' and the noise n above the low band
    """

    t: float
    matched: float
    low_band: float
    untouched: float
    another_draw: float
    above: float
    untouched_above: float


@dataclass(frozen=True)
class DenoiserVerification:
    """What `verify_denoiser` measured.

    size, new_size : the trained size and the new one, in pixels of the network
    count : number of pictures
    times : the differences at each time, the noisiest first
    notes : what was assumed
    not_finite : the first layer whose outputs are not finite numbers, where a prediction is not
    """

    size: tuple[int, ...]
    new_size: tuple[int, ...]
    count: int
    times: tuple[AtTime, ...]
    notes: tuple[str, ...] = ()
    not_finite: str | None = None

    @property
    def grade(self) -> Grade:
        """What the differences amount to.

        'same': nothing but rounding. 'close': at every time, the low band differs no more than by another draw of the
        noise. 'no better': in the mean over the times, the low band is as far off as the untouched network's, or the
        noise above it is smoothed away, or a prediction is not finite. 'changed': anything else.
        """
        if self._not_finite is not None:
            return "no better"  # NaN would pass all comparisons below
        if all(at.low_band <= SAME for at in self.times):
            return "same"
        mean, untouched = (sum(getattr(at, name) for at in self.times) for name in ("low_band", "untouched"))
        if mean >= untouched or self._smoothed:
            return "no better"
        return "close" if all(at.low_band <= at.another_draw for at in self.times) else "changed"

    @property
    def _smoothed(self) -> bool:
        return any(at.above > SMOOTHED for at in self.times)

    @property
    def _not_finite(self) -> AtTime | None:
        """The first time at which the rescaled network predicts NaN or infinity."""
        return next((at for at in self.times if not math.isfinite(at.low_band + at.above)), None)

    @property
    def title(self) -> str:
        """The grade as a heading."""
        return _TITLES[self.grade]

    @property
    def verdict(self) -> str:
        """The grade in sentences."""
        at = self._not_finite
        if at is not None:
            own = math.isfinite(at.another_draw)
            whose = "The rescaled network's predictions" if own else "The trained network's own predictions"
            first = f", first after the layer {shown(self.not_finite)}" if self.not_finite is not None else ""
            return f"{whose} are NaN or infinite at t = {at.t:g}{first}: check its weights and its dtype."
        worst = max(self.times, key=lambda at: at.low_band / max(at.another_draw, 1e-30))
        most = max(self.times, key=lambda at: at.above)
        smoothed = " That is smoothed away: rescale fewer layers, as the preset inner does." if self._smoothed else ""
        return (
            f"{_SAID[self.grade]} The low band stands out most at t = {worst.t:g}: it is off by "
            f"{percent(worst.low_band)} of its noise, the untouched network by {percent(worst.untouched)}, and another "
            f"draw of the noise makes {percent(worst.another_draw)}. Above the low band the prediction is off by "
            f"{percent(most.above)} of the noise at most (t = {most.t:g}; untouched {percent(most.untouched_above)})."
            f"{smoothed} Samples judge better than single steps: draw some with `rekernel sample`."
        )

    def to_html(self, title: str = "Rescaled denoiser against the trained one") -> str:
        """The report as one HTML page that needs no other file and no network. Needs Jinja and Pillow."""
        from ...torch.report.page import filled

        size, new = dims(self.size), dims(self.new_size)
        return filled(
            "denoiser.html.j2", title=title, grade=self.grade, heading=self.title, verdict=self.verdict,
            setting=f"{new} against {size}, on {self.count} pictures.", notes=self.notes, found=self, percent=percent,
            chart=self._chart(),
        )  # fmt: skip

    def save_report(self, path: str | Path, title: str = "Rescaled denoiser against the trained one") -> None:
        """Write the page of `to_html` to a file."""
        Path(path).write_text(self.to_html(title), encoding="utf-8")

    def _chart(self) -> str:
        """The low band by time; empty for fewer than two times."""
        from ...torch.report.charts import Curve, line_chart

        if len(self.times) < 2:
            return ""
        styles = (
            ("low_band", "rescaled", "new"),
            ("untouched", "untouched", "old"),
            ("another_draw", "another draw", "third"),
        )
        curves = [
            Curve(label, style, np.array([(at.t, getattr(at, name)) for at in self.times], np.float64))
            for name, label, style in styles
        ]
        return line_chart(
            curves, title="The low band at each time", x_label="time (large: noise)", y_label="off, share of the noise",
            text=f"Rescaled {_listed(curves[0])}; untouched {_listed(curves[1])}; another draw {_listed(curves[2])}.",
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: None in place of NaN and infinity."""
        found: dict[str, Any] = for_json({
            "size": list(self.size), "new_size": list(self.new_size), "count": self.count,
            "verdict": {"grade": self.grade, "text": f"{self.title}. {self.verdict}"},
            "times": [asdict(at) for at in self.times], "notes": list(self.notes),
        })  # fmt: skip
        return found


def verify_denoiser(
    model: nn.Module,
    rescaled: nn.Module,
    size: tuple[int, ...],
    *,
    scheduler: Any,
    times: Sequence[float] | None = None,
    conditions: Mapping[str, Any] | None = None,
    pictures: Tensor | None = None,
    count: int = 8,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> DenoiserVerification:
    """Compare a rescaled denoiser with the trained one, each at its size, at some times of the schedule.

    Parameters
    ----------
    model : nn.Module
        The trained denoiser, of diffusers.
    rescaled : nn.Module
        The module that `rekernel.torch.rescale` or `load` returned.
    size : tuple of int
        The trained size in pixels of the network (latent pixels), (H, W).
    scheduler : a diffusers scheduler
        Its config tells the noise schedule and what the network predicts.
    times : sequence of float, optional
        Times in the unit of the network; by default .9, .6, .3 and .1 of the schedule.
    conditions : mapping, optional
        Further keyword arguments of the network at the new size, for a batch: text embeddings, classes.
    pictures : (count, C, *new size) Tensor, optional
        Clean pictures (latents) of the new size; by default samples of the trained network, enlarged.
    count : int
        Number of pictures, where none are given; it has to fit the batch of `conditions`.
    seed : int
        Seed of the noise.
    notes : sequence of str
        Sentences that the result repeats.

    Returns
    -------
    DenoiserVerification

    Raises
    ------
    RekernelError
        If a network does not run, or the scheduler is not known.
    """
    given = dict(conditions or {})
    schedule, kind = schedule_of(scheduler, model)
    scales = plan_scales(rescaled, len(size))
    new = tuple(round(n * s) for n, s in zip(size, scales, strict=True))
    count = count if pictures is None else len(pictures)
    draw = torch.Generator().manual_seed(seed)
    channels = int(getattr(model, "config", {}).get("out_channels") or 1)
    shape = (count, channels, *new)
    shares = [schedule.start + share * (schedule.end - schedule.start) for share in SHARES]
    ends = sorted((schedule.start, schedule.end))
    wrong = next((t for t in times or () if not ends[0] <= t <= ends[1]), None)
    if wrong is not None or (times is not None and not len(times)):
        raise RekernelError(
            f"{'no time' if wrong is None else f'{wrong:g}'} is not a time of this network, whose times are from "
            f"{ends[0]:g} to {ends[1]:g}; ",
            Option("pass others as times=", "give others: --timesteps"),
        )
    chosen = sorted(shares if times is None else times, key=lambda t: float(schedule.log_snr(t)))
    with torch.no_grad():
        call = _call(model, torch.zeros(shape), given)
        split = call.low(scales)
        low = call.reduced(split)
        clean = pictures
        if clean is None:
            clean = split.enlarge_grid(_sampled(model, low, schedule, kind, draw))
        with first_not_finite(model, rescaled) as layers:
            found = [_at(model, rescaled, call, low, split, schedule, kind, clean, float(t), draw) for t in chosen]
    return DenoiserVerification(tuple(split.low), new, count, tuple(found), tuple(notes), next(iter(layers), None))


def _listed(curve: Any) -> str:
    """The values of a curve as text, the noisiest time first."""
    return ", ".join(f"{percent(y)} at {t:g}" for t, y in curve.points.tolist())


def _call(model: nn.Module, x: Tensor, conditions: dict[str, Any]) -> Call:
    try:
        return read_call(model, (x, torch.zeros(())), conditions)
    except TypeError as error:
        raise RekernelError(f"{type(model).__name__}: {said_by(error)}") from error


def _estimate(network: nn.Module, call: Call, x: Tensor, t: Any, kind: str, alpha: Any, sigma: Any) -> Tensor:
    """A network's estimate of the clean picture in the noisy one."""
    at = call.at(x, t)
    try:
        output = at.run(network)
    except (RuntimeError, ValueError, TypeError) as error:
        raise RekernelError(f"{type(network).__name__} does not run on {tuple(x.shape)}: {said_by(error)}") from error
    found: Tensor = to_x0(kind, x, at.prediction(output), float(alpha), float(sigma))
    return found


def _at(
    model: nn.Module,
    rescaled: nn.Module,
    call: Call,
    low: Call,
    split: Split,
    schedule: NoiseSchedule,
    kind: str,
    clean: Tensor,
    t: float,
    draw: torch.Generator,
) -> AtTime:
    m = match(schedule, t, split.gain)
    alpha, sigma = float(m.alpha), float(m.sigma)

    def noisy() -> tuple[Tensor, Tensor]:
        noise = torch.randn(clean.shape, generator=draw)
        return noise, alpha * clean + sigma * noise

    def trained(x: Tensor) -> Tensor:
        reduced = split.low_input(x) * float(m.scale)
        return _estimate(model, low, reduced, m.tau, kind, m.low_alpha, m.low_sigma)

    def high(picture: Tensor) -> Tensor:
        above: Tensor = picture - split.enlarge_grid(split.reduce_grid(picture))
        return above

    noise, x = noisy()
    wanted, other = trained(x), trained(noisy()[1])
    found = {"rescaled": _estimate(rescaled, call, x, t, kind, alpha, sigma)}
    found["untouched"] = _estimate(model, call, x, t, kind, alpha, sigma)
    unit = alpha / sigma / float(split.reduce_grid(noise).norm())
    off = {name: unit * float((split.reduce_grid(x0) - wanted).norm()) for name, x0 in found.items()}
    above = high(noise)
    above_off = {
        name: float((high((x - alpha * x0) / sigma) - above).norm() / above.norm()) for name, x0 in found.items()
    }
    return AtTime(
        t, float(m.tau), off["rescaled"], off["untouched"], unit * float((other - wanted).norm()),
        above_off["rescaled"], above_off["untouched"],
    )  # fmt: skip


def _sampled(model: nn.Module, low: Call, schedule: NoiseSchedule, kind: str, draw: torch.Generator) -> Tensor:
    """Samples of the trained network at its size, in 20 deterministic steps."""
    shape = (len(low.grid), low.noisy, *low.size)
    x0 = torch.zeros(shape)
    noise = torch.randn(shape, generator=draw)
    for share in np.linspace(1, 1 / _STEPS, _STEPS):
        log_snr = schedule.log_snr(schedule.start + share * (schedule.end - schedule.start))
        alpha, sigma = float(schedule.alpha(log_snr)), float(schedule.sigma(log_snr))
        x = alpha * x0 + sigma * noise
        x0 = _estimate(model, low, x, schedule.time(log_snr), kind, alpha, sigma)
        noise = (x - alpha * x0) / sigma
    return x0
