"""From the shapes and names of a checkpoint to a plan: which tensors are rescaled, how, and what stays unclear.

Knows what shapes can tell and what they cannot (`families` and the caller's hints tell the rest); reads no weights.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .checkpoint import TensorSource, open_checkpoint
from .errors import RekernelError
from .escape import shown
from .families import MLP, Family, LayerFacts, recognise
from .filters import KEYS_A
from .geometry import conv_geometry, conv_transpose_geometry
from .operators import GAINS, KERNEL_METHODS, canonical_method
from .optimal import SMOOTHNESS
from .plan import AxisGeometry, AxisOperator, LayerChange, Plan
from .recipe import find_recipe
from .resample import flattened_grid, spatial_axes
from .selection import layer_of, matcher, select

RESAMPLED_DTYPES = ("F16", "BF16", "F32", "F64")

Scale = float | Sequence[float]
Grid = Sequence[int]

_MODES = ("supersample", "absorb")
_LARGEST_KERNEL = 31  # ConvNets' largest in use; a longer trailing axis is no kernel


@dataclass(frozen=True)
class Hints:
    """What the model would tell and a checkpoint cannot, by pattern; the last matching pattern wins.

    linear_grid, output_grid : (C, *spatial) behind a fully-connected layer's inputs or outputs
    order : 'channels-first' or 'channels-last', how such a grid was flattened
    stride, padding : of a convolution; padding may be (left, right)
    layout : 'OIHW', 'HWIO', ... ; a 3-D tensor becomes a Conv1d this way
    mode : 'supersample' (feature maps grow) or 'absorb' (the stride grows instead)
    """

    linear_grid: Mapping[str, Grid] = field(default_factory=dict)
    output_grid: Mapping[str, Grid] = field(default_factory=dict)
    order: Mapping[str, str] = field(default_factory=dict)
    stride: Mapping[str, int] = field(default_factory=dict)
    padding: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)
    layout: Mapping[str, str] = field(default_factory=dict)
    mode: Mapping[str, str] = field(default_factory=dict)

    def given(self, what: str, name: str) -> Any:
        """The value for a tensor, or None."""
        table: Mapping[str, Any] = getattr(self, what)
        return next((value for pattern, value in reversed([*table.items()]) if matcher(pattern)(name)), None)

    def check(self, names: Sequence[str]) -> None:
        """Refuse a pattern that matches nothing."""
        for what in ("linear_grid", "output_grid", "order", "stride", "padding", "layout", "mode"):
            select(names, getattr(self, what), what)


@dataclass(frozen=True)
class Settings:
    """How a tensor is resampled; overrides replace single fields.

    scale : number, or tuple with one per spatial axis
    method, taps, gain, a, smoothness : as for `kernel_operator`
    """

    scale: Any
    method: str = "optimal"
    taps: int | str | None = None
    gain: str = "dc"
    a: float = KEYS_A
    smoothness: float = SMOOTHNESS

    def __post_init__(self) -> None:
        canonical_method(self.method, (*KERNEL_METHODS, "pinv-nearest", "pinv-linear", "pinv-cubic"))
        if self.gain not in GAINS:
            raise RekernelError(f"gain={self.gain!r} is not one of {', '.join(GAINS)}")
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if not scales or not all(isinstance(s, int | float) and math.isfinite(s) and s > 0 for s in scales):
            raise RekernelError(f"scale={self.scale!r} must be a number above 0, or one per spatial axis")

    def scales(self, count: int) -> tuple[float, ...] | None:
        """One scale per spatial axis; None where the number of axes does not fit."""
        if not isinstance(self.scale, tuple):
            return (float(self.scale),) * count
        if len(self.scale) == 2 and count == 3:
            return (1.0, *map(float, self.scale))  # an image's scale leaves time alone
        return tuple(map(float, self.scale)) if len(self.scale) == count else None

    def shape(self) -> dict[str, float]:
        return {"a": self.a, "smoothness": self.smoothness}


class _Unclear(Exception):  # noqa: N818 - not an error: becomes a note in the plan
    """A tensor was left alone because its shape does not say what it is."""


def plan_checkpoint(
    source: str | os.PathLike[str] | TensorSource,
    scale: Scale,
    *,
    method: str = "optimal",
    taps: int | str | None = None,
    gain: str = "dc",
    a: float = KEYS_A,
    smoothness: float = SMOOTHNESS,
    preset: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    hints: Hints | None = None,
    allow_cast: bool = False,
    allow_pickle: bool = False,
) -> Plan:
    """Decide from names and shapes what to do with every tensor of a checkpoint; no weights are read.

    Parameters
    ----------
    source : path or open checkpoint
        A safetensors file, an index, or a folder with one of them.
    scale : float or sequence of float
        New pixels per old one; a sequence gives one per spatial axis (two leave the time axis of a video model alone).
    method, taps, gain, a, smoothness
        As for `kernel_operator`. Values on a grid (position embeddings) are interpolated without coefficient,
        by cubic where the method is 'optimal' or 'dilate'.
    preset : str, optional
        A selection of the recognised family ('inner', 'all', ...); its default where nothing is included.
    include, exclude : patterns
        Globs, or regular expressions after 're:', on tensor or layer names. A pattern without a match is an error.
    overrides : {pattern: {'scale' | 'method' | 'taps' | 'gain' | ...: value}}, optional
        Settings for single layers; later patterns win.
    hints : Hints, optional
        Strides, grids, layouts and modes that shapes cannot tell.
    allow_cast : bool
        Also resample integer and float8 weights, computed in float32 and rounded back.
    allow_pickle : bool
        As for `open_checkpoint`.

    Returns
    -------
    Plan

    Raises
    ------
    RekernelError
        For a pattern without a match, an unknown preset, a dtype that may not be cast, or a geometry that cannot be.

    Examples
    --------
    >>> import tempfile, safetensors.numpy, numpy as np
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "in.safetensors"
    >>> safetensors.numpy.save_file({"conv.weight": np.zeros((8, 4, 3, 3), np.float32)}, path)
    >>> plan_checkpoint(path, scale=2).changes[0].new_shape
    (8, 4, 5, 5)
    """
    if isinstance(source, str | os.PathLike):
        with open_checkpoint(source, allow_pickle=allow_pickle) as opened:
            return plan_checkpoint(
                opened, scale, method=method, taps=taps, gain=gain, a=a, smoothness=smoothness, preset=preset,
                include=include, exclude=exclude, overrides=overrides, hints=hints, allow_cast=allow_cast,
            )  # fmt: skip
    refuse_rescaled(source)
    shapes = {name: info.shape for name, info in source.tensors.items()}
    scale = _plain(scale)
    base = Settings(scale, method, taps, gain, a, smoothness)
    hints = hints or Hints()
    hints.check(list(shapes))
    family = recognise(shapes)
    chosen, selection = _chosen(shapes, family, preset, include, exclude)
    each = _settings_by_name(base, overrides or {}, shapes)
    changes, warnings = [], list(family.notes(shapes)) if family else []
    for name, info in source.tensors.items():
        layer = _Layer(name, info.dtype, info.shape, shapes, each.get(name, base), hints, family)
        try:
            change = layer.change() if name in chosen else layer.kept(f"not selected by {selection}")
        except _Unclear as unclear:
            warnings.append(f"{shown(name)} {list(info.shape)}: {unclear}")
            change = layer.kept("unclear, see the notes")
        if not change.kept and info.dtype not in RESAMPLED_DTYPES and not allow_cast:
            raise RekernelError(
                f"{shown(name)}: dtype {info.dtype} is not resampled, since rounding would change its meaning. "
                f"Leave it out (--exclude {shown(name)}), or allow a cast (--allow-cast)."
            )
        changes.append(change)
    assumed = sum(c.kind == "conv" and hints.given("stride", c.name) is None for c in changes)
    if family is None and assumed:
        warnings.append(
            f"no family recognised: stride 1 and 'same' padding are assumed for {assumed} convolutions; "
            f"where that is wrong, say --stride NAME=2"
        )
    options: dict[str, Any] = {k: v for k, v in asdict(base).items() if v is not None}
    options["scale"] = list(scale) if isinstance(scale, tuple) else scale
    options["selection"] = selection
    return Plan(tuple(changes), family.name if family else "", options, tuple(warnings))


def _plain(scale: Any) -> Any:
    """Python's own numbers, in a tuple where there are several: NumPy's scalars and arrays are no JSON."""
    scale = scale.tolist() if hasattr(scale, "tolist") else scale
    return tuple(map(_plain, scale)) if isinstance(scale, Sequence) and not isinstance(scale, str) else scale


def refuse_rescaled(source: TensorSource) -> None:
    """Raise where a checkpoint was rescaled before: its layers no longer have the strides their names tell."""
    recipe = find_recipe(source.metadata)
    if recipe is not None:
        scale = recipe.plan.options.get("scale", "?")
        raise RekernelError(
            f"{shown(os.fspath(source.path), 400)}: was rescaled already (scale {scale}, {shown(recipe.tool)}) "
            f"and its layers' geometry with it; convert the original instead"
        )


def _chosen(
    shapes: Mapping[str, tuple[int, ...]],
    family: Family | None,
    preset: str | None,
    include: Sequence[str] | None,
    exclude: Sequence[str],
) -> tuple[set[str], str]:
    """The names to rescale, and how to call that choice in a reason."""
    if preset is None and include is not None:
        chosen, called = select(shapes, include, "include"), "include"
    else:
        presets = family.presets(shapes) if family else {"all": ("*",)}
        preset = preset or (family.default if family else "all")
        if preset not in presets:
            of = f"a {family.name} checkpoint" if family else "a checkpoint of no known family"
            raise RekernelError(f"preset {shown(preset)} is unknown for {of}; choose from {', '.join(sorted(presets))}")
        chosen, called = select(shapes, presets[preset], f"preset {preset!r}"), f"preset {preset!r}"
        if include is not None:
            chosen |= select(shapes, include, "include")
    return chosen - select(shapes, exclude, "exclude"), called + (" or excluded" if exclude else "")


def _settings_by_name(
    base: Settings, overrides: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Settings]:
    each: dict[str, Settings] = {}
    for pattern, values in overrides.items():
        unknown = set(values) - set(asdict(base))
        if unknown:
            allowed = ", ".join(asdict(base))
            raise RekernelError(f"override {shown(pattern)}: {shown(sorted(unknown)[0])} is not one of {allowed}")
        values = {k: _plain(v) if k == "scale" else v for k, v in values.items()}
        for name in select(shapes, [pattern], "override"):
            each[name] = Settings(**{**asdict(each.get(name, base)), **values})
    return each


@dataclass(frozen=True)
class _Layer:
    """One tensor with all that is known of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    settings: Settings
    hints: Hints
    family: Family | None

    def kept(self, reason: str) -> LayerChange:
        return LayerChange(self.name, self.dtype, self.shape, self.shape, "keep", reason)

    def change(self) -> LayerChange:
        """What to do with a selected tensor."""
        facts = self.family.facts(self.name, self.shapes) if self.family else None
        if self.hints.given("output_grid", self.name):
            return self._linear("out")
        if facts and facts.role == "positions":
            return self._positions(facts)
        if len(self.shape) < 2:
            return self.kept("bias, norm or scalar: no spatial axis")
        if len(self.shape) == 2:
            if self.hints.given("linear_grid", self.name):
                return self._linear("in")
            self._suspect_grid()
            return self.kept("fully connected: no spatial axis")
        layout = self.hints.given("layout", self.name) or self._guessed_layout()
        if layout is None:
            return self.kept("more than two axes, but no convolution")
        return self._conv(facts or LayerFacts(), layout)

    def _conv(self, facts: LayerFacts, layout: str) -> LayerChange:
        axes = spatial_axes(self.shape, layout)
        kernel = tuple(self.shape[axis] for axis in axes)
        scales = self.settings.scales(len(axes))
        if scales is None:
            raise _Unclear(f"has {len(axes)} spatial axes, the scale {len(self.settings.scale)}; give it a --set scale")
        stride = self.hints.given("stride", self.name) or facts.stride
        mode = self.hints.given("mode", self.name) or ("absorb" if facts.role == "patch" else "supersample")
        if mode not in _MODES:
            raise RekernelError(f"{shown(self.name)}: mode {shown(mode)} is not one of {', '.join(_MODES)}")
        if max(kernel) > _LARGEST_KERNEL:
            size = "x".join(map(str, kernel))
            raise _Unclear(f"layout {layout} makes it a kernel of {size}; left as it is. Is it another layout?")
        if all(k == 1 for k in kernel) and stride == 1:
            return self.kept("1x1 convolution: pointwise")
        padding = self._padding(kernel, facts, stride)
        patch = mode == "absorb" and padding == (0, 0) and all(k == stride for k in kernel)
        operators, before, after = [], [], []
        for axis, k, scale in zip(axes, kernel, scales, strict=True):
            before.append(AxisGeometry(k, stride, padding))
            try:
                operator, geometry = (
                    self._patch_axis(axis, k, scale)
                    if patch
                    else self._kernel_axis(axis, k, scale, stride, padding, facts.role, mode)
                )
            except RekernelError as error:
                raise RekernelError(f"{shown(self.name)} {list(self.shape)}: {error}") from None
            after.append(geometry)
            if operator is not None:
                operators.append(operator)
        if not operators:
            return self.kept("pointwise, or scale 1")
        return LayerChange(
            self.name,
            self.dtype,
            self.shape,
            _replaced(self.shape, operators),
            "patch" if patch else facts.role if facts.role != "patch" else "conv",
            f"{'patch embedding' if patch else 'convolution'}, stride {stride}: {mode}s",
            view=self.shape,
            operators=tuple(operators),
            geometry=tuple(before),
            new_geometry=tuple(after),
        )

    def _kernel_axis(
        self, axis: int, k: int, scale: float, stride: int, padding: tuple[int, int], role: str, mode: str
    ) -> tuple[AxisOperator | None, AxisGeometry]:
        if scale == 1 or (k == 1 and stride == 1):
            return None, AxisGeometry(k, stride, padding)
        s = self.settings
        method = canonical_method(s.method)
        scale_out = 1.0 if mode == "absorb" else scale
        if role == "conv-transpose" and mode == "absorb":
            raise RekernelError("a transposed convolution enlarges and cannot absorb a scale; supersample it")
        if role == "conv-transpose":
            place = conv_transpose_geometry(
                k, method=method, taps=s.taps, stride=stride, padding=padding[0], scale_in=scale, scale_out=scale_out
            )
        else:
            place = conv_geometry(
                k, method=method, taps=s.taps, stride=stride, padding=padding, scale_in=scale, scale_out=scale_out
            )
        # Dilation has no taps between pixels: what is left of the phase stays, as in every dilated network.
        phase = 0.0 if method == "dilate" else place.phase
        operator = AxisOperator(
            axis, k, place.taps, "kernel", scale, method, s.gain, phase, a=s.a, smoothness=s.smoothness
        )
        operator.matrix()
        geometry = AxisGeometry(place.taps, place.stride, place.padding)
        return operator, geometry

    def _patch_axis(self, axis: int, k: int, scale: float) -> tuple[AxisOperator | None, AxisGeometry]:
        new = _whole(k * scale, f"a patch of {k} pixels at scale {scale:g}")
        s = self.settings
        operator = AxisOperator(
            axis, k, new, "grid", new / k, self._grid_method(), s.gain, a=s.a, smoothness=s.smoothness
        )
        operator.matrix()
        return (operator if new != k else None), AxisGeometry(new, new, (0, 0))

    def _padding(self, kernel: tuple[int, ...], facts: LayerFacts, stride: int) -> tuple[int, int]:
        given = self.hints.given("padding", self.name)
        if isinstance(given, int):
            return given, given
        if given is not None:
            left, right = given
            return left, right
        if facts.padding is not None:
            return facts.padding
        known = facts.stride > 1 or self.hints.given("stride", self.name)
        if any(k % 2 == 0 for k in kernel):
            if known:
                raise RekernelError(
                    f"{shown(self.name)}: an even kernel of stride {stride} has no usual padding; give --padding"
                )
            raise _Unclear(
                f"even kernel {'x'.join(map(str, kernel))}, so probably strided; left as it is. "
                f"Say --stride {layer_of(self.name)}=N and --padding {layer_of(self.name)}=P"
            )
        return (kernel[-1] - 1) // 2, (kernel[-1] - 1) // 2

    def _linear(self, side: str) -> LayerChange:
        what = "linear_grid" if side == "in" else "output_grid"
        grid = tuple(self.hints.given(what, self.name))
        order = self.hints.given("order", self.name) or "channels-first"
        scales = self.settings.scales(len(grid) - 1)
        if scales is None:
            raise RekernelError(f"{shown(self.name)}: {what} {grid} and scale {self.settings.scale} differ in axes")
        if len(self.shape) > 2 or (side == "in" and len(self.shape) == 1):
            raise RekernelError(f"{shown(self.name)} {list(self.shape)}: {what} is for fully-connected layers")
        new_grid = (
            grid[0],
            *(_whole(n * s, f"{shown(self.name)}: a grid of {n}") for n, s in zip(grid[1:], scales, strict=True)),
        )
        axis = 1 if side == "in" else 0
        try:
            cells, new_cells, first = flattened_grid(self.shape[axis], grid, new_grid, order)
        except RekernelError as error:
            raise RekernelError(
                f"{shown(self.name)}: {error}. Pass another, or leave it out: --exclude {layer_of(self.name)}"
            ) from None
        s = self.settings
        gain = s.gain if side == "in" else "none"
        method = self._grid_method() if side == "in" else self._values_method()
        operators = tuple(
            AxisOperator(axis + first + i, n, m, "grid", m / n, method, gain, a=s.a, smoothness=s.smoothness)
            for i, (n, m) in enumerate(zip(grid[1:], new_grid[1:], strict=True))
            if n != m
        )
        rest = self.shape[1:] if side == "out" else ()
        view = (*self.shape[:axis], *cells, *rest)
        new_shape = (*self.shape[:axis], math.prod(new_cells), *rest)
        size = "x".join(map(str, grid))
        reason = f"fully connected: reads a {size} grid" if side == "in" else f"writes a {size} grid: values"
        if not operators:
            return self.kept("scale 1")
        return LayerChange(self.name, self.dtype, self.shape, new_shape, f"linear-{side}", reason, view, operators)

    def _positions(self, facts: LayerFacts) -> LayerChange:
        mode = next(
            (
                self.hints.given("mode", n) or "absorb"
                for n in self.shapes
                if self.family and (f := self.family.facts(n, self.shapes)) and f.role == "patch"
            ),
            "absorb",
        )
        explicit = self.hints.given("mode", self.name)
        if (explicit or mode) == "absorb":
            return self.kept("position embeddings: the patch embedding absorbs the scale, so the token grid stays")
        axis = len(self.shape) - 2
        tokens = self.shape[axis] - facts.prefix
        side = math.isqrt(tokens)
        scales = self.settings.scales(2)
        if side * side != tokens or scales is None:
            raise _Unclear(f"{tokens} tokens are no square grid, or the scale is not one for images; left as it is")
        new = [_whole(side * s, f"{shown(self.name)}: a token grid of {side}") for s in scales]
        s = self.settings
        operators = tuple(
            AxisOperator(
                axis + i, side, n, "grid", n / side, self._values_method(), "none", a=s.a, smoothness=s.smoothness
            )
            for i, n in enumerate(new)
            if n != side
        )
        if not operators:
            return self.kept("scale 1")
        return LayerChange(
            self.name,
            self.dtype,
            self.shape,
            (*self.shape[:axis], facts.prefix + new[0] * new[1], self.shape[-1]),
            "values",
            f"position embeddings on a {side}x{side} grid: values, no coefficient; {facts.prefix} class tokens kept",
            view=(*self.shape[:axis], side, side, self.shape[-1]),
            operators=operators,
            prefix=facts.prefix,
            grid_axis=axis,
        )

    def _grid_method(self) -> str:
        """The method for weights that read a grid; dilation has no meaning there, its nearest kin is 'nearest'."""
        method = canonical_method(self.settings.method, (*KERNEL_METHODS, "pinv-nearest", "pinv-linear", "pinv-cubic"))
        return {"dilate": "nearest", "optimal-filter": "optimal"}.get(method, method)

    def _values_method(self) -> str:
        """The method for values; 'optimal' and the pseudo-inverse are designed for weights."""
        method = self._grid_method().removeprefix("pinv-")
        return "cubic" if method == "optimal" or self.settings.method == "dilate" else method

    def _guessed_layout(self) -> str | None:
        """PyTorch's layout where shape and name speak for a convolution; doubt is reported."""
        shape, option = self.shape, f"--layout {layer_of(self.name)}="
        usual = "OIHW" if len(shape) == 4 else "OIDHW"
        if len(shape) > 5:
            return None
        if re.search(
            r"pos(ition)?(al)?_?(bias_table|embed|emb\b|enc)|(^|[._])(cls|class|mask|reg(ister)?)_token", self.name
        ):
            raise _Unclear("looks like a position embedding or token of no known family; left as it is")
        if len(shape) == 3:
            has_bias = self.name.endswith(".weight") and self.shapes.get(layer_of(self.name) + ".bias") == shape[:1]
            if shape[-1] == 1 or (has_bias and shape[-1] <= _LARGEST_KERNEL):
                return "OIW"
            raise _Unclear(f"may be no Conv1d; left as it is. If it is one, say {option}OIW")
        if self.name.endswith(".kernel") or min(shape[-2:]) > _LARGEST_KERNEL >= max(shape[: len(shape) - 2]):
            guess = "HWIO" if len(shape) == 4 else "DHWIO"
            raise _Unclear(f"looks like layout {guess}; left as it is. Say {option}{guess}")
        if not self.name.endswith(("weight", "weight_v")) or max(shape[2:]) > _LARGEST_KERNEL:
            raise _Unclear(f"may be no convolution; left as it is. If it is one, say {option}{usual}")
        return usual

    def _suspect_grid(self) -> None:
        """Raise where a fully-connected layer's inputs may be pixels."""
        if not self.name.endswith("weight") or not (self.family is None or isinstance(self.family, MLP)):
            return  # the other families are known to pool or to attend
        inputs = self.shape[1]
        others = {s for n, s in self.shapes.items() if n != self.name and len(s) >= 2}
        if any(s[0] == inputs for s in others):  # some layer writes exactly what this one reads
            return
        channels = sorted({1, 3} | {s[0] for s in others if len(s) > 2}, reverse=True)
        for c in channels:
            side = math.isqrt(inputs // c)
            if inputs == c * side * side and side > 1 and (c > 3 or side >= 8):
                grid = f"{c},{side},{side}"
                raise _Unclear(
                    f"may read a {grid} grid; left as it is. If it does, say --linear-grid {layer_of(self.name)}={grid}"
                )


def _replaced(shape: tuple[int, ...], operators: Sequence[AxisOperator]) -> tuple[int, ...]:
    new = {o.axis: o.new for o in operators}
    return tuple(new.get(i, n) for i, n in enumerate(shape))


def _whole(value: float, what: str) -> int:
    if abs(value - round(value)) > 1e-6 or round(value) < 1:
        raise RekernelError(f"{what} would become {value:g}, no whole number; choose another scale")
    return round(value)
