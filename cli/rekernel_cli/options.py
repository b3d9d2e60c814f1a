"""The options that several commands share, and their translation to keyword arguments of the library.

Scope: one declaration per option, and the names of the library's arguments. Not here: parsing of values (see `values`),
and the lists of names that the library has (see `names`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import click
from click.core import ParameterSource

from . import completion, names, values
from .help_layout import GroupedOption, Help

if TYPE_CHECKING:
    from rekernel.planning.settings import PlanningOptions

Command = Callable[..., Any]


class Asked(TypedDict, total=False):
    """How large the result is: the scale, or the new size and the trained one, (height, width)."""

    scale: values.Scale
    size: tuple[int, int]
    from_size: tuple[int, int]


RESAMPLING = "Resampling"
SELECTION = "Selection (PATTERN is a glob, or re:REGEX; repeatable)"
INPUT = "Input"
UNSEEN = "What shapes cannot tell (NAME is a tensor, a layer or a PATTERN; repeatable)"
OUTPUT = "Output"

_HINTS = ("linear_grid", "output_grid", "order", "stride", "dilation", "padding", "layout", "grid", "mode")
_SAFE_WITH_PLAN = ("component", "allow_cast", "allow_pickle")  # these do not change a ready plan


def option(*spellings: str, group: str, **settings: Any) -> Callable[[Command], Command]:
    """Like `click.option`, listed under the heading `group`; `help` may be a function that returns the text."""
    return click.option(*spellings, cls=GroupedOption, group=group, **settings)


def _repeated(
    name: str, kind: Callable[[str], Any], metavar: str, text: Help, *, rare: bool = False, group: str = UNSEEN,
    known: Callable[[], Sequence[str]] = tuple,
) -> Callable[[Command], Command]:  # fmt: skip
    complete = completion.hinted(known, bare=metavar.startswith("["))
    return option(
        name, group=group, type=kind, multiple=True, metavar=metavar, help=text, rare=rare, shell_complete=complete
    )


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    option("--scale", group=RESAMPLING, type=values.scale, metavar="S",
           help="New pixels per old pixel: 2, 1.5; for videos frames x height x width: 1x2x2."),
    option("--scale-w", group=RESAMPLING, type=values.factor, metavar="S", rare=True,
           help="Scale of the width alone, with --scale-h, instead of --scale."),
    option("--scale-h", group=RESAMPLING, type=values.factor, metavar="S", rare=True,
           help="Scale of the height alone, with --scale-w."),
    option("--to", "to_size", group=RESAMPLING, type=values.size, metavar="WxH",
           help="Instead of --scale: the new size, width first: 1024x768."),
    option("--from", "from_size", group=RESAMPLING, type=values.size, metavar="WxH",
           help="With --to: the trained size, width first. Default: that which config.json beside the weights tells."),
    option("--method", group=RESAMPLING, type=values.method, metavar="METHOD",
           shell_complete=completion.words(names.methods),
           help=lambda: f"{names.methods_by_use()}. Default: {names.default('method')}; by the role of the layer."),
    option("--reading-filter", group=RESAMPLING, rare=True, type=values.choice(names.reading_filters), metavar="METHOD",
           shell_complete=completion.words(names.reading_filters),
           help=lambda: "Method of the layer that reads the image, if another than --method: "
                        f"{', '.join(names.reading_filters())}."),
    _repeated("--mode", values.hint(values.choice(names.modes), "--mode absorb", bare=True), "[NAME=]MODE",
              "absorb: the layer that reads the image takes the scale. supersample: feature maps grow. Default: auto; "
              "absorb unless the output is an image.",
              group=RESAMPLING, known=names.modes),
    option("--gain", group=RESAMPLING, rare=True, type=values.choice(names.gains), metavar="GAIN",
           shell_complete=completion.words(names.gains),
           help=lambda: "dc keeps the response to constants; ratio divides by the scale; none does neither. "
                        f"Default: {names.default('gain')}."),
    option("--taps", group=RESAMPLING, type=values.taps, metavar="N", shell_complete=completion.words(names.taps_rules),
           help=lambda: f"Taps per axis: a number, {' or '.join(names.taps_rules())}. "
                        "Default: same-extent for optimal, else full."),
    option("--cubic-a", "a", group=RESAMPLING, rare=True, type=values.number, metavar="A",
           help=lambda: f"Parameter a of the cubic filter (Keys). Default: {names.default('a'):g}; "
                        "PyTorch uses -0.75."),
    option("--smoothness", group=RESAMPLING, rare=True, type=values.number, metavar="X",
           help=lambda: "Weight of aliases for the optimal method, 0 to 1. "
                        f"Default: {names.smoothness()}."),
    option("--preset", group=SELECTION, metavar="NAME", shell_complete=completion.presets,
           help="Preset of the family: inner, all (`inspect` lists them)."),
    option("--include", group=SELECTION, multiple=True, metavar="PATTERN", shell_complete=completion.layers,
           help="Rescale these tensors, also beside those of --preset."),
    option("--exclude", group=SELECTION, multiple=True, metavar="PATTERN", shell_complete=completion.layers,
           help="Keep these tensors unchanged."),
    option("--set", "overrides", group=SELECTION, type=values.override, multiple=True, rare=True,
           metavar="PATTERN:K=V,...", shell_complete=completion.settings(values.settings_of_layers, after=":"),
           help=f"Other settings for some layers: 'layer1.*:method=cubic,taps=7'. K is one of "
                f"{', '.join(values.SETTINGS)}."),
    _repeated("--linear-grid", values.hint(values.grid, "--linear-grid fc1=512,7,7"), "NAME=C,H,W",
              "Channels and size of the grid that the linear layer reads flattened.", rare=True),
    _repeated("--output-grid", values.hint(values.grid, "--output-grid head=3,16,16"), "NAME=C,H,W",
              "Channels and size of the grid that the linear layer writes; the bias is rescaled too.", rare=True),
    _repeated("--grid", values.hint(values.patches, "--grid pos_embed=16,8"), "NAME=H,W",
              "Patches along each axis of the trained image, for a table of positions.", rare=True),
    _repeated("--order", values.hint(values.choice(names.orders), "--order fc1=channels-last", bare=True), "NAME=ORDER",
              "Order of the flattened grid: channels-first (the default) or channels-last.", rare=True,
              known=names.orders),
    _repeated("--stride", values.hint(values.whole(1), "--stride conv1=2"), "NAME=N",
              "Stride of the convolution, where the family does not define the stride.", rare=True),
    _repeated("--dilation", values.hint(values.whole(1), "--dilation conv1=2"), "NAME=N",
              "Dilation of the convolution (spacing of the taps). Default: 1.", rare=True),
    _repeated("--padding", values.hint(values.padding, "--padding conv1=0,1"), "NAME=N[,N]",
              "Padding of the convolution, or left,right. Default: dilation*(k-1)/2.", rare=True),
    _repeated("--layout", values.hint(values.layout, "--layout conv1=HWIO", bare=True), "[NAME=]AXES",
              "Axes of the weight. Default: OIHW. HWIO without NAME applies to every tensor.", rare=True,
              known=lambda: ("OIHW", "HWIO", "OHWI")),
    option("--component", group=INPUT, multiple=True, metavar="NAME", shell_complete=completion.components,
           help="Component of a pipeline to rescale. Default: unet."),
    option("--allow-cast", group=INPUT, is_flag=True, rare=True,
           help="Also rescale integer and float8 weights; the results are rounded."),
    option("--allow-pickle", group=INPUT, is_flag=True,
           help="Also read .bin, .pt, .pth and .ckpt (tensors only)."),
)  # fmt: skip

_NAMES = (
    "scale", "scale_w", "scale_h", "to_size", "from_size", "method", "reading_filter", "gain", "taps", "a",
    "smoothness", "preset", "include", "exclude", "overrides", "component", *_HINTS, "allow_cast", "allow_pickle",
)  # fmt: skip


@dataclass(frozen=True)
class Planning:
    """The shared options as one value.

    typed : names of the options that the user typed, in the order of the help
    raw : values by parameter name
    """

    typed: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The requested method, or the library's default."""
        return str(self.raw["method"] or names.default("method"))

    @property
    def components(self) -> list[str] | None:
        """The requested components; None if the library chooses."""
        return list(self.raw["component"]) or None

    @property
    def reading(self) -> dict[str, bool]:
        """Keyword arguments that also apply to a ready plan."""
        return {"allow_cast": self.raw["allow_cast"], "allow_pickle": self.raw["allow_pickle"]}

    def asked(self) -> Asked:
        """Keyword arguments of `plan_source` and `convert` that say how large: the scale, or the sizes.

        Raises
        ------
        click.UsageError
            If the scale is missing, given twice or incomplete.
        """
        return _asked(*(self.raw[name] for name in ("scale", "scale_w", "scale_h", "from_size", "to_size")))

    def scale_of(self, source: str) -> values.Scale:
        """The scale; the trained size is read beside the weights of `source` where --to is given alone."""
        asked = self.asked()
        if "scale" in asked:
            return asked["scale"]
        from rekernel.offline import scale_between

        found: Any = scale_between(source, asked["size"], asked.get("from_size"))
        return tuple(found) if isinstance(found, Sequence) else found

    def keywords(self) -> PlanningOptions:
        """Keyword arguments of `plan_source` and `convert` that say how to plan, without the scale.

        Raises
        ------
        click.UsageError
            If a NAME is given twice.
        """
        from rekernel.planning.settings import Hints

        hints = {name: _unique(self.raw[name], "--" + name.replace("_", "-")) for name in _HINTS}
        mode = hints["mode"].pop("*", None)  # without a name: the mode of the network
        keywords: PlanningOptions = {
            "include": list(self.raw["include"]) or None,
            "exclude": list(self.raw["exclude"]),
            "overrides": _unique(self.raw["overrides"], "--set"),
            "hints": Hints(**hints),
        }
        if mode is not None:
            keywords["mode"] = mode
        for name in ("method", "reading_filter", "gain", "taps", "preset", "a", "smoothness"):
            if self.raw[name] is not None:
                keywords[name] = self.raw[name]
        return keywords

    def refuse(self, why: str) -> None:
        """Raise a usage error if the user typed an option that changes the plan."""
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


def _asked(
    scale: values.Scale | None, width: float | None, height: float | None,
    old: tuple[int, int] | None, new: tuple[int, int] | None,
) -> Asked:  # fmt: skip
    sides = width is not None or height is not None
    if sum((scale is not None, sides, bool(old or new))) > 1:
        raise click.UsageError("--scale, --scale-w/--scale-h and --from/--to all set the scale; give only one of them.")
    if scale is not None:
        return {"scale": scale}
    if sides:
        if width is None or height is None:
            raise click.UsageError("--scale-w and --scale-h go together: --scale-w 2 --scale-h 1.5.")
        return {"scale": (height, width)}
    if new:
        return {"size": new, "from_size": old} if old else {"size": new}
    if old:
        raise click.UsageError("--from needs --to: --from 512x512 --to 1024x768.")
    raise click.UsageError("the scale is missing; give --scale 2, or --to 1024x768.")


def _unique(pairs: Sequence[tuple[str, Any]], name: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise click.UsageError(f"{name}: {key!r} is given twice; combine both into one option.")
        seen[key] = value
    return seen
