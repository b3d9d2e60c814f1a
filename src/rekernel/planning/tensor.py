"""One tensor of a checkpoint to one entry of a plan: convolution, patch, linear layer or position embedding.

Knows what a shape, a name and a hint say of a tensor, and what they leave unclear; which tensors are asked about is
`planner`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..architectures.axis_order import PYTORCH, Layout
from ..architectures.base import Family, LayerFacts
from ..architectures.detect import is_weight
from ..architectures.vision import MLP
from ..errors import Option, RekernelError
from ..escape import shown
from ..patterns import layer_of, without
from ..plan.changes import AxisGeometry, AxisOperator, LayerChange
from ..resampling.arrays import flattened_grid, spatial_axes
from ..resampling.geometry import conv_geometry, conv_transpose_geometry, new_size
from ..resampling.methods import canonical_method
from .settings import Hints, Settings

_MODES = ("supersample", "absorb")
_LARGEST_KERNEL = 31  # ConvNets' largest in use; a longer trailing axis is no kernel


class Unclear(Exception):  # noqa: N818 - not an error: becomes a note in the plan
    """A tensor was left alone because its shape does not say what it is."""


@dataclass(frozen=True)
class Layer:
    """One tensor with all that is known of it; `shape` is its own, `shapes` are all in PyTorch's order of axes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    settings: Settings
    hints: Hints
    family: Family | None
    layout: Layout = PYTORCH

    def kept(self, reason: str) -> LayerChange:
        return LayerChange(self.name, self.dtype, self.shape, self.shape, "keep", reason)

    def change(self) -> LayerChange:
        """What to do with a selected tensor."""
        facts = self.family.facts(self.name, self.shapes) if self.family else None
        if facts and facts.refusal:
            raise RekernelError(
                f"{shown(self.name)} {list(self.shape)}: {facts.refusal}, or leave the layer out: ", without(self.name)
            )
        if self.hints.given("output_grid", self.name):
            return self._linear("out")
        if facts and facts.role == "positions":
            return self._positions(facts)
        if len(self.shape) < 2:
            return self.kept("bias, norm or scalar: no spatial axis")
        if facts and facts.view:
            return self._conv(facts, facts.layout)
        if len(self.shape) == 2:
            if self.hints.given("linear_grid", self.name):
                return self._linear("in")
            self._suspect_grid()
            return self.kept("fully connected: no spatial axis")
        layout = self._asked_layout() or (facts.layout if facts else "") or self._guessed_layout()
        if layout is None:
            return self.kept("more than two axes, but no convolution")
        return self._conv(facts or LayerFacts(), layout)

    def _conv(self, facts: LayerFacts, layout: str) -> LayerChange:
        view = facts.view or self.shape
        axes = spatial_axes(view, layout)
        kernel = tuple(view[axis] for axis in axes)
        scales = self.settings.scales(len(axes))
        if scales is None:
            raise Unclear(f"has {len(axes)} spatial axes, the scale {len(self.settings.scale)}; give it a --set scale")
        stride = self.hints.given("stride", self.name) or facts.stride
        mode = self.hints.given("mode", self.name) or ("absorb" if facts.role == "patch" else "supersample")
        if mode not in _MODES:
            raise RekernelError(f"{shown(self.name)}: mode {shown(mode)} is not one of {', '.join(_MODES)}")
        if max(kernel) > _LARGEST_KERNEL:
            size = "x".join(map(str, kernel))
            raise Unclear(f"layout {layout} makes it a kernel of {size}; left as it is. Is it another layout?")
        if all(k == 1 for k in kernel) and stride == 1:
            return self.kept("1x1 convolution: pointwise")
        dilation = self.hints.given("dilation", self.name) or 1
        padding = self._padding(kernel, facts, stride, dilation)
        patch = mode == "absorb" and padding == (0, 0) and dilation == 1 and all(k == stride for k in kernel)
        operators, before, after = [], [], []
        for axis, k, scale in zip(axes, kernel, scales, strict=True):
            before.append(old := AxisGeometry(k, stride, padding, dilation))
            try:
                operator, geometry = (
                    self._patch_axis(axis, k, scale) if patch else self._kernel_axis(axis, old, scale, facts.role, mode)
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
            _replaced(self.shape, operators)
            if view == self.shape
            else (view[0], math.prod(_replaced(view, operators)[1:])),
            "patch" if patch else facts.role if facts.role != "patch" else "conv",
            f"{'patch embedding' if patch else 'convolution'}, stride {stride}: {mode}s",
            view=view,
            operators=tuple(operators),
            geometry=tuple(before),
            new_geometry=tuple(after),
        )

    def _kernel_axis(
        self, axis: int, old: AxisGeometry, scale: float, role: str, mode: str
    ) -> tuple[AxisOperator | None, AxisGeometry]:
        k, dilation = old.kernel, old.dilation
        if scale == 1 or (k == 1 and old.stride == 1):
            return None, old
        s = self.settings
        method = canonical_method(s.method)
        scale_out = 1.0 if mode == "absorb" else scale
        if role == "conv-transpose" and mode == "absorb":
            raise RekernelError("a transposed convolution enlarges and cannot absorb a scale; supersample it")
        if role == "conv-transpose":
            place = conv_transpose_geometry(
                k, method=method, taps=s.taps, stride=old.stride, padding=old.padding[0], dilation=dilation,
                scale_in=scale, scale_out=scale_out,
            )  # fmt: skip
        else:
            place = conv_geometry(
                k, method=method, taps=s.taps, stride=old.stride, padding=old.padding, dilation=dilation,
                scale_in=scale, scale_out=scale_out,
            )  # fmt: skip
        # Dilation has no taps between pixels: what is left of the phase stays, as in every dilated network.
        phase = 0.0 if method == "dilate" else place.phase
        operator = AxisOperator(
            axis, k, place.taps, "kernel", scale, method, s.gain, phase, dilation, s.a, s.smoothness
        )
        operator.matrix()
        geometry = AxisGeometry(place.taps, place.stride, place.padding)
        return operator, geometry

    def _patch_axis(self, axis: int, k: int, scale: float) -> tuple[AxisOperator | None, AxisGeometry]:
        new = new_size(k, scale, exact=True, what=f"a patch of {k} pixels")
        s = self.settings
        operator = AxisOperator(
            axis, k, new, "grid", new / k, self.settings.grid_method(), s.gain, a=s.a, smoothness=s.smoothness
        )
        operator.matrix()
        return (operator if new != k else None), AxisGeometry(new, new, (0, 0))

    def _padding(self, kernel: tuple[int, ...], facts: LayerFacts, stride: int, dilation: int) -> tuple[int, int]:
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
                    f"{shown(self.name)}: an even kernel of stride {stride} has no usual padding; give ",
                    Option("hints=Hints(padding=...)", "--padding"),
                )
            raise Unclear(
                f"even kernel {'x'.join(map(str, kernel))}, so probably strided; left as it is. "
                f"Say --stride {layer_of(self.name)}=N and --padding {layer_of(self.name)}=P"
            )
        side = dilation * (kernel[-1] - 1) // 2
        return side, side

    def _linear(self, side: str) -> LayerChange:
        what = "linear_grid" if side == "in" else "output_grid"
        grid = tuple(self.hints.given(what, self.name))
        order = self.hints.given("order", self.name) or self.layout.order
        scales = self.settings.scales(len(grid) - 1)
        if scales is None:
            raise RekernelError(f"{shown(self.name)}: {what} {grid} and scale {self.settings.scale} differ in axes")
        if len(self.shape) > 2 or (side == "in" and len(self.shape) == 1):
            raise RekernelError(f"{shown(self.name)} {list(self.shape)}: {what} is for fully-connected layers")
        new_grid = (
            grid[0],
            *(
                new_size(n, s, exact=True, what=f"{shown(self.name)}: a grid of {n}")
                for n, s in zip(grid[1:], scales, strict=True)
            ),
        )
        axes = self._linear_axes()
        axis = axes.index("I" if side == "in" else "O") if len(self.shape) == 2 else 0
        try:
            cells, new_cells, first = flattened_grid(self.shape[axis], grid, new_grid, order)
        except RekernelError as error:
            raise RekernelError(
                f"{shown(self.name)}: {error}. Pass another, or leave it out: ", without(layer_of(self.name))
            ) from None
        s = self.settings
        gain = s.gain if side == "in" else "none"
        method = self.settings.grid_method() if side == "in" else self.settings.values_method()
        operators = tuple(
            AxisOperator(axis + first + i, n, m, "grid", m / n, method, gain, a=s.a, smoothness=s.smoothness)
            for i, (n, m) in enumerate(zip(grid[1:], new_grid[1:], strict=True))
            if n != m
        )
        rest = self.shape[axis + 1 :]
        view = (*self.shape[:axis], *cells, *rest)
        new_shape = (*self.shape[:axis], math.prod(new_cells), *rest)
        size = "x".join(map(str, grid))
        reason = f"fully connected: reads a {size} grid" if side == "in" else f"writes a {size} grid: values"
        if not operators:
            return self.kept("scale 1")
        return LayerChange(self.name, self.dtype, self.shape, new_shape, f"linear-{side}", reason, view, operators)

    def _asked_layout(self) -> str | None:
        """The layout that was given for the tensor; one given for all holds for its kin with other numbers of axes."""
        asked: str | None = self.hints.given("layout", self.name)
        if asked is not None and asked == self.hints.layout_of_all():
            return self._layout_of_all()
        return asked

    def _layout_of_all(self) -> str | None:
        """The framework's layout, for what its name says is a convolution."""
        axes = self.layout.of(len(self.shape))
        if axes is None or not is_weight(self.name):
            raise Unclear(
                f"is no convolution by its name; left as it is. If it is one, say {self._option()}{axes or ''}"
            )
        if len(self.shape) == 3 and re.search(
            r"(^|[./])(query|key|value|qkv|out|attention_output)[./]kernel", self.name
        ):
            return None  # attention's matrices with an axis for the heads
        return axes

    def _linear_axes(self) -> str:
        asked = self.hints.given("layout", self.name) if len(self.shape) == 2 else None
        if asked is None or asked == self.hints.layout_of_all():
            return self.layout.linear
        if sorted(asked) != ["I", "O"]:
            raise RekernelError(f"{shown(self.name)} {list(self.shape)}: layout {shown(asked)} is not OI or IO")
        return str(asked)

    def _option(self) -> str:
        return f"--layout {layer_of(self.name)}="

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
            raise Unclear(f"{tokens} tokens are no square grid, or the scale is not one for images; left as it is")
        new = [new_size(side, s, exact=True, what=f"{shown(self.name)}: a token grid of {side}") for s in scales]
        s = self.settings
        operators = tuple(
            AxisOperator(
                axis + i,
                side,
                n,
                "grid",
                n / side,
                self.settings.values_method(),
                "none",
                a=s.a,
                smoothness=s.smoothness,
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

    def _guessed_layout(self) -> str | None:
        """PyTorch's layout where shape and name speak for a convolution; doubt is reported."""
        shape, option = self.shape, self._option()
        usual = "OIHW" if len(shape) == 4 else "OIDHW"
        if len(shape) > 5:
            return None
        if re.search(
            r"pos(ition)?(al)?_?(bias_table|embed|emb\b|enc)|(^|[._])(cls|class|mask|reg(ister)?)_token", self.name
        ):
            raise Unclear("looks like a position embedding or token of no known family; left as it is")
        if self.layout is not PYTORCH:
            return self._layout_of_all()
        if len(shape) == 3:
            has_bias = self.name.endswith(".weight") and self.shapes.get(layer_of(self.name) + ".bias") == shape[:1]
            if shape[-1] == 1 or (has_bias and shape[-1] <= _LARGEST_KERNEL):
                return "OIW"
            raise Unclear(f"may be no Conv1d; left as it is. If it is one, say {option}OIW")
        if self.name.endswith(".kernel") or min(shape[-2:]) > _LARGEST_KERNEL >= max(shape[: len(shape) - 2]):
            guess = "HWIO" if len(shape) == 4 else "DHWIO"
            raise Unclear(f"looks like layout {guess}; left as it is. Say {option}{guess}")
        if max(shape[1:-1]) <= _LARGEST_KERNEL < shape[-1] and len(set(shape[1:-1])) == 1:
            guess = "OHWI" if len(shape) == 4 else "ODHWI"
            raise Unclear(f"looks like layout {guess}; left as it is. Say {option}{guess}")
        if not self.name.endswith(("weight", "weight_v")) or max(shape[2:]) > _LARGEST_KERNEL:
            raise Unclear(f"may be no convolution; left as it is. If it is one, say {option}{usual}")
        return usual

    def _suspect_grid(self) -> None:
        """Raise where a fully-connected layer's inputs may be pixels."""
        if not is_weight(self.name) or not (self.family is None or isinstance(self.family, MLP)):
            return  # the other families are known to pool or to attend
        inputs = self.shapes[self.name][1]
        others = {s for n, s in self.shapes.items() if n != self.name and len(s) >= 2}
        if any(s[0] == inputs for s in others):  # some layer writes exactly what this one reads
            return
        channels = sorted({1, 3} | {s[0] for s in others if len(s) > 2}, reverse=True)
        for c in channels:
            side = math.isqrt(inputs // c)
            if inputs == c * side * side and side > 1 and (c > 3 or side >= 8):
                grid = f"{c},{side},{side}"
                raise Unclear(
                    f"may read a {grid} grid; left as it is. If it does, say --linear-grid {layer_of(self.name)}={grid}"
                )


def _replaced(shape: tuple[int, ...], operators: Sequence[AxisOperator]) -> tuple[int, ...]:
    new = {o.axis: o.new for o in operators}
    return tuple(new.get(i, n) for i, n in enumerate(shape))
