"""Hold the options of planning: how to resample, and hints about what a checkpoint cannot show.

Scope: options and patterns. Not here: tensors and plans (see `planning.by_name`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypedDict

from ..errors import Option, RekernelError
from ..escape import shown
from ..messages.arguments import check_instance
from ..patterns import by_pattern, matcher, select
from ..plan.changes import AxisOperator, LayerMode, NetworkMode
from ..resampling.arrays import Order
from ..resampling.geometry import is_whole
from ..resampling.methods import (
    ALL_METHODS,
    AUTO_METHOD,
    GAINS,
    KEYS_A,
    READING_FILTERS,
    SMOOTHNESS,
    Alias,
    Gain,
    Method,
    ReadingFilter,
    TapsRule,
    canonical_method,
    for_grid,
    for_values,
)
from .allowed_values import check_numbers, check_scale, sizes

Scale = float | Sequence[float]
Grid = Sequence[int]


@dataclass(frozen=True)
class Hints:
    """Facts about layers that a checkpoint does not show, by pattern of layer names; the last matching pattern wins.

    linear_grid, output_grid : grid (C, *spatial) that a fully-connected layer reads or writes flattened
    order : 'channels-first' or 'channels-last', the order in which that grid was flattened
    stride, padding : stride and padding of a convolution; the padding may be (left, right)
    dilation : dilation of a convolution, the spacing of its taps
    layout : order of the axes, 'OIHW', 'HWIO', ... ; with it, a 3-D tensor is a Conv1d, and 'IO' transposes a matrix.
        The layout of '*' tells the framework of the file: 'HWIO' includes 1-D and 3-D convolutions and matrices
    mode : 'supersample' (the feature maps grow) or 'absorb' (the stride grows instead)
    grid : number of patches along each axis of the trained image, for a table of positions; entries in front of the
        patches (class tokens) stay
    """

    linear_grid: Mapping[str, Grid] = field(default_factory=dict)
    output_grid: Mapping[str, Grid] = field(default_factory=dict)
    order: Mapping[str, Order] = field(default_factory=dict)
    stride: Mapping[str, int] = field(default_factory=dict)
    padding: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)
    layout: Mapping[str, str] = field(default_factory=dict)
    mode: Mapping[str, LayerMode] = field(default_factory=dict)
    dilation: Mapping[str, int] = field(default_factory=dict)
    grid: Mapping[str, Grid] = field(default_factory=dict)

    def given(self, what: str, name: str) -> Any:
        """The value for a tensor, or None."""
        table: Mapping[str, Any] = getattr(self, what)
        return next((value for pattern, value in reversed([*table.items()]) if matcher(pattern)(name)), None)

    def layout_of_all(self) -> str | None:
        """The layout given for every tensor.

        Examples
        --------
        >>> Hints(layout={"*": "HWIO", "conv1": "OIHW"}).layout_of_all()
        'HWIO'
        """
        return self.layout.get("*")

    def check(self, names: Sequence[str]) -> None:
        """Refuse what is not a dict, a pattern that matches nothing, and a value that no layer can have."""
        for field_ in fields(self):
            example = _EXAMPLES.get(field_.name, "2")
            by_pattern(getattr(self, field_.name), field_.name, f"{{'conv1': {example}}}")
            select(names, getattr(self, field_.name), field_.name)
        for what in ("linear_grid", "output_grid"):
            for pattern, grid in getattr(self, what).items():
                if not sizes(grid) or len(grid) < 2:
                    raise RekernelError(
                        f"{what} of {shown(pattern)}: {grid!r} is not channels and then the size along each axis, such "
                        f"as (512, 7, 7)"
                    )
        for pattern, dilation in self.dilation.items():
            if not isinstance(dilation, int) or isinstance(dilation, bool) or dilation < 1:
                raise RekernelError(f"dilation of {shown(pattern)}: {dilation!r} is not a whole number of 1 or more")
        for pattern, grid in self.grid.items():
            if not sizes(grid):
                raise RekernelError(
                    f"grid of {shown(pattern)}: {grid!r} is not a number of patches along each axis, such as (16, 8)"
                )


_EXAMPLES = {
    "linear_grid": "(512, 7, 7)", "output_grid": "(3, 16, 16)", "grid": "(16, 8)", "order": "'channels-last'",
    "layout": "'HWIO'", "mode": "'absorb'",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How a tensor is resampled; overrides replace single fields.

    scale : number, or tuple with one per spatial axis
    method, taps, gain, a, smoothness : as for `kernel_operator`; a method keeps its canonical name. 'auto' leaves the
        method to the role of each layer (see `planning.roles`), and so does None the smoothness
    reading_filter : method of the layer that reads the image; None for `method`, and with 'auto' for 'area'

    Examples
    --------
    >>> Settings(2, "bicubic").method
    'cubic'
    """

    scale: Any
    method: str = AUTO_METHOD
    taps: int | TapsRule | None = None
    gain: Gain = "dc"
    a: float = KEYS_A
    smoothness: float | None = None
    reading_filter: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", canonical_method(self.method, (AUTO_METHOD, *ALL_METHODS)))
        if self.reading_filter is not None:
            object.__setattr__(self, "reading_filter", canonical_method(self.reading_filter, READING_FILTERS))
        if self.gain not in GAINS:
            raise RekernelError(f"gain={self.gain!r} is not one of {', '.join(GAINS)}")
        check_numbers(taps=self.taps, a=self.a, smoothness=self.smoothness)
        check_scale(self.scale)

    @property
    def whole(self) -> bool:
        """Whether the scale is a whole number along every axis."""
        return all(map(is_whole, self.scale if isinstance(self.scale, tuple) else (self.scale,)))

    @property
    def smooth(self) -> float:
        """The smoothness, or its default."""
        return SMOOTHNESS if self.smoothness is None else self.smoothness

    def scales(self, count: int) -> tuple[float, ...] | None:
        """One scale per spatial axis; None where the number of axes does not fit."""
        if not isinstance(self.scale, tuple):
            return (float(self.scale),) * count
        if len(self.scale) == 2 and count == 3:
            return (1.0, *map(float, self.scale))  # an image's scale leaves time alone
        return tuple(map(float, self.scale)) if len(self.scale) == count else None

    def on_grid(self, axis: int, old: int, new: int, *, values: bool = False) -> AxisOperator | None:
        """The operator on the pixels of a finite image along one axis; None if their number does not change.

        Parameters
        ----------
        values : bool
            The entries are values that pixels have (position embeddings), not weights that read pixels.
        """
        if old == new:
            return None
        method = for_values(self.method) if values else for_grid(self.method)
        gain: Gain = "none" if values else self.gain
        return AxisOperator(axis, old, new, "grid", new / old, method, gain, a=self.a, smoothness=self.smooth)

    def on_kernel(
        self, axis: int, taps: int, new_taps: int, scale: float, method: str, *, phase: float, dilation: int
    ) -> AxisOperator:
        """The operator on the taps of a filter that slides along one axis."""
        return AxisOperator(
            axis, taps, new_taps, "kernel", scale, method, self.gain, phase, dilation, self.a, self.smooth
        )


class PlanningOptions(TypedDict, total=False):
    """The keyword arguments that `plan_checkpoint`, `plan_source` and `convert` share; the first explains each."""

    method: Method
    taps: int | TapsRule | None
    gain: Gain
    a: float
    smoothness: float | None
    reading_filter: ReadingFilter | Alias | None
    mode: NetworkMode
    preset: str | None
    include: Sequence[str] | None
    exclude: Sequence[str]
    overrides: Mapping[str, Mapping[str, Any]] | None
    hints: Hints | None


@dataclass(frozen=True)
class Request:
    """Everything that planning is asked for.

    settings : of every tensor without an override
    mode : mode of the network: 'auto', 'absorb' or 'supersample'
    preset, include, exclude, overrides, hints, allow_cast : as for `plan_checkpoint`
    called : the name under which the caller passed the overrides
    """

    settings: Settings
    mode: str = "auto"
    preset: str | None = None
    include: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    overrides: Mapping[str, Mapping[str, Any]] | None = None
    hints: Hints | None = None
    allow_cast: bool = False
    called: str = "overrides"

    @classmethod
    def of(
        cls, scale: Any, *, mode: str = "auto", preset: str | None = None, include: Sequence[str] | None = None,
        exclude: Sequence[str] = (), overrides: Mapping[str, Mapping[str, Any]] | None = None,
        hints: Hints | None = None, allow_cast: bool = False, **settings: Any,
    ) -> Self:  # fmt: skip
        """The request that these keyword arguments of `plan_checkpoint` make.

        Examples
        --------
        >>> Request.of(2, method="bicubic", exclude=["fc*"]).settings.method
        'cubic'
        """
        chosen = Settings(plain_scale(scale), **settings)
        return cls(chosen, mode, preset, include, exclude, overrides, hints, allow_cast)

    def each(self, names: Collection[str]) -> dict[str, Settings]:
        """The settings of the tensors that have an override, by name; later patterns win."""
        base = self.settings
        each: dict[str, Settings] = {}
        example = "{'conv1*': {'method': 'cubic'}}"
        for pattern, values in by_pattern(self.overrides, self.called, example).items():
            if not isinstance(values, Mapping):
                raise RekernelError(
                    f"{self.called}: {shown(repr(values), 80)} for {shown(pattern)} is not a dict of settings; pass "
                    f"one: {self.called}={{{shown(repr(pattern))}: {{'method': 'cubic'}}}}"
                )
            unknown = set(values) - set(asdict(base))
            if unknown:
                named = shown(str(sorted(unknown, key=str)[0]))
                allowed = ", ".join(asdict(base))
                option = Option(self.called, "--set")
                raise RekernelError(option, f" {shown(pattern)}: {named} is not a setting; they are {allowed}")
            values = {k: plain_scale(v) if k == "scale" else v for k, v in values.items()}
            chosen = select(names, [pattern], self.called)
            try:
                for name in chosen:
                    each[name] = Settings(**{**asdict(each.get(name, base)), **values})
            except RekernelError as error:
                raise RekernelError(Option(self.called, "--set"), f" {shown(pattern)}: ", *error.args) from None
        return each

    def checked_hints(self, names: Sequence[str]) -> Hints:
        """Return the hints; raise if a pattern matches no tensor."""
        hints = Hints() if self.hints is None else self.hints
        check_instance(hints, Hints, "hints", "pass rekernel.Hints(stride={'conv1': 2})")
        hints.check(names)
        return hints

    def options(self) -> dict[str, Any]:
        """The settings as a plan shows them: plain values, for JSON."""
        given = {key: value for key, value in asdict(self.settings).items() if value is not None}
        scale = given["scale"]
        return {**given, "scale": list(scale) if isinstance(scale, tuple) else scale}


def plain_scale(scale: Any) -> Any:
    """Convert NumPy scalars and arrays to plain numbers, for JSON; several numbers become a tuple.

    Examples
    --------
    >>> import numpy as np
    >>> plain_scale(np.array([2.0, 1.5])), plain_scale(2)
    ((2.0, 1.5), 2)
    """
    scale = scale.tolist() if hasattr(scale, "tolist") else scale
    return tuple(map(plain_scale, scale)) if isinstance(scale, Sequence) and not isinstance(scale, str) else scale
