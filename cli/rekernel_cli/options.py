"""Options that several commands share, each declared once, and what they become: keyword arguments of the library.

Scope: names of the library's arguments. Of the library, only its lists of names are imported here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rekernel.resampling.methods import GAINS, GRID_METHODS, KERNEL_METHODS

from . import values
from .help_layout import GroupedOption

if TYPE_CHECKING:
    from rekernel.planning.settings import PlanningOptions

Command = Callable[..., Any]
_ON_GRIDS_ALONE = tuple(method for method in GRID_METHODS if method not in KERNEL_METHODS)

RESAMPLING = "Resampling"
SELECTION = "Selection (PATTERN is a glob, or re:REGEX; repeatable)"
INPUT = "Input"
UNSEEN = "What shapes cannot tell (NAME is a tensor, a layer or a PATTERN; repeatable)"
OUTPUT = "Output"

_HINTS = ("linear_grid", "output_grid", "order", "stride", "dilation", "padding", "layout", "mode")
_SAFE_WITH_PLAN = ("component", "allow_cast", "allow_pickle")  # they say how to run a plan, not what it is


def option(*names: str, group: str, **settings: Any) -> Callable[[Command], Command]:
    """`click.option` under a heading."""
    return click.option(*names, cls=GroupedOption, group=group, **settings)


def _repeated(
    name: str, kind: Callable[[str], Any], metavar: str, text: str, *, rare: bool = False
) -> Callable[[Command], Command]:
    return option(name, group=UNSEEN, type=kind, multiple=True, metavar=metavar, help=text, rare=rare)


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    option("--scale", group=RESAMPLING, type=values.scale, metavar="S",
           help="New pixels per old one: 2, 1.5, or per axis, height first: 2x1.5, 1x2x2."),
    option("--from", "from_size", group=RESAMPLING, type=values.size, metavar="WxH",
           help="Instead of --scale: trained image, as 512x512 ..."),
    option("--to", "to_size", group=RESAMPLING, type=values.size, metavar="WxH",
           help="... and the one to run at, WxH, as 1024x768."),
    option("--method", group=RESAMPLING, type=values.method, metavar="METHOD", default="optimal", show_default=True,
           help=f"{', '.join(KERNEL_METHODS)}; on grids also {', '.join(_ON_GRIDS_ALONE)}."),
    option("--gain", group=RESAMPLING, type=click.Choice(GAINS), default="dc", show_default=True,
           help="dc keeps each tap's response to a constant; ratio divides by the scale; none does neither."),
    option("--taps", group=RESAMPLING, type=values.taps, metavar="N",
           help="Per axis: a number, full or same-extent. Default: same-extent for optimal, else full."),
    option("--cubic-a", "a", group=RESAMPLING, rare=True, type=values.number, metavar="A",
           help="Of cubic: Keys' parameter. Default: -0.5; PyTorch has -0.75."),
    option("--smoothness", group=RESAMPLING, rare=True, type=values.number, metavar="X",
           help="Of optimal, 0 to 1: weight of the spectral copies. Default: 0.01."),
    option("--preset", group=SELECTION, metavar="NAME",
           help="Layers of the family: inner, all; inspect lists them."),
    option("--include", group=SELECTION, multiple=True, metavar="PATTERN",
           help="Rescale these, or these too beside --preset."),
    option("--exclude", group=SELECTION, multiple=True, metavar="PATTERN", help="Leave these alone."),
    option("--set", "overrides", group=SELECTION, type=values.override, multiple=True, rare=True,
           metavar="PATTERN:K=V,...",
           help="Other settings for some layers: 'layer1.*:method=cubic,taps=7'. K is scale, "
                "method, taps, gain, a or smoothness."),
    _repeated("--linear-grid", values.hint(values.grid, "--linear-grid fc1=512,7,7"), "NAME=C,H,W",
              "The fully-connected layer reads a flattened grid.", rare=True),
    _repeated("--output-grid", values.hint(values.grid, "--output-grid head=3,16,16"), "NAME=C,H,W",
              "The fully-connected layer writes one; its bias is scaled with it.", rare=True),
    _repeated("--order", values.hint(values.choice("channels-first", "channels-last"), "--order fc1=channels-last",
                                     bare=True), "NAME=ORDER",
              "Its order: channels-first (the default) or channels-last.", rare=True),
    _repeated("--stride", values.hint(values.whole(1), "--stride conv1=2"), "NAME=N",
              "The convolution's stride, where the family does not tell.", rare=True),
    _repeated("--dilation", values.hint(values.whole(1), "--dilation conv1=2"), "NAME=N",
              "The convolution's dilation, the spacing of its taps. Default: 1.", rare=True),
    _repeated("--padding", values.hint(values.padding, "--padding conv1=0,1"), "NAME=N[,N]",
              "The convolution's padding, or left,right. Default: dilation*(k-1)/2.", rare=True),
    _repeated("--layout", values.hint(values.layout, "--layout conv1=HWIO", bare=True), "[NAME=]AXES",
              "A weight's axes, by default OIHW; HWIO alone holds for every tensor.", rare=True),
    _repeated("--mode", values.hint(values.choice("absorb", "supersample"), "--mode conv1=absorb", bare=True),
              "[NAME=]MODE", "absorb: the stride grows; supersample: the feature maps grow.", rare=True),
    option("--component", group=INPUT, multiple=True, metavar="NAME",
           help="Of a pipeline: what to rescale, by default unet."),
    option("--allow-cast", group=INPUT, is_flag=True, rare=True,
           help="Also rescale integer and float8 weights, rounding the result."),
    option("--allow-pickle", group=INPUT, is_flag=True,
           help="Also read .bin, .pt, .pth, .ckpt (tensors alone)."),
)  # fmt: skip

_NAMES = (
    "scale", "from_size", "to_size", "method", "gain", "taps", "a", "smoothness", "preset", "include", "exclude",
    "overrides", "component", *_HINTS, "allow_cast", "allow_pickle",
)  # fmt: skip


@dataclass(frozen=True)
class Planning:
    """The shared options as one value.

    typed : option names as they were given on the command line, in the order of the help
    raw : value by parameter name
    """

    typed: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def components(self) -> list[str] | None:
        """The components asked for; None is the library's choice."""
        return list(self.raw["component"]) or None

    @property
    def reading(self) -> dict[str, bool]:
        """Keyword arguments that hold with a ready plan too."""
        return {"allow_cast": self.raw["allow_cast"], "allow_pickle": self.raw["allow_pickle"]}

    @property
    def scale(self) -> values.Scale:
        """The scale.

        Raises
        ------
        click.UsageError
            For a scale that is missing, given twice or in halves.
        """
        return _scale(self.raw["scale"], self.raw["from_size"], self.raw["to_size"])

    def keywords(self) -> PlanningOptions:
        """Keyword arguments of `plan_source` and `convert` that say how to plan, without the scale.

        Raises
        ------
        click.UsageError
            For a NAME given twice.
        """
        from rekernel.planning.settings import Hints

        hints = {name: _unique(self.raw[name], "--" + name.replace("_", "-")) for name in _HINTS}
        keywords: PlanningOptions = {
            "include": list(self.raw["include"]) or None,
            "exclude": list(self.raw["exclude"]),
            "overrides": _unique(self.raw["overrides"], "--set"),
            "hints": Hints(**hints),
        }
        for name in ("method", "gain", "taps", "preset", "a", "smoothness"):
            if self.raw[name] is not None:
                keywords[name] = self.raw[name]
        return keywords

    def refuse(self, why: str) -> None:
        """A usage error if any option was typed that says what the plan is."""
        if self.typed:
            raise click.UsageError(f"{', '.join(self.typed)}: {why}")


def planning_options(command: Command) -> Command:
    """Add the shared options; the command receives them as `planning`."""

    @functools.wraps(command)
    def with_planning(**given: Any) -> Any:
        raw = {name: given.pop(name) for name in _NAMES}
        return command(planning=Planning(_typed(), raw), **given)

    decorated: Command = with_planning
    for add in reversed(_OPTIONS):
        decorated = add(decorated)
    return decorated


def _typed() -> tuple[str, ...]:
    ctx = click.get_current_context()
    return tuple(
        param.opts[0]
        for param in ctx.command.params
        if param.name in _NAMES
        and param.name not in _SAFE_WITH_PLAN
        and ctx.get_parameter_source(param.name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    )


def _scale(scale: values.Scale | None, old: tuple[int, int] | None, new: tuple[int, int] | None) -> values.Scale:
    if scale is not None:
        if old or new:
            raise click.UsageError("--scale and --from/--to say the same thing; give one of them.")
        return scale
    if old and new:
        return values.scale_between(old, new)
    if old or new:
        raise click.UsageError(
            f"--{'from' if old else 'to'} needs --{'to' if old else 'from'} beside it: --from 512x512 --to 1024x768."
        )
    raise click.UsageError("no scale; give --scale 2, or --from 512x512 --to 1024x768.")


def _unique(pairs: Sequence[tuple[str, Any]], name: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise click.UsageError(f"{name}: {key!r} is given twice; give it once, with all that holds for it.")
        seen[key] = value
    return seen
