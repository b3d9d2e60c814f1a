"""Plan one tensor of a checkpoint: a convolution, patch embedding, linear layer or position embedding.

Scope: what the shape, the name and the hints say about one tensor, and what they leave unclear. Not here: which tensors
are selected (see `planning.by_name`), nor what becomes of a layer (see `planning.rules`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..architectures.axis_order import PYTORCH, Layout
from ..architectures.base import Family, LayerFacts
from ..architectures.detect import is_weight
from ..architectures.diffusion import SingleFileDiffusion
from ..architectures.tokens import is_table
from ..architectures.vision import MLP
from ..errors import Option, RekernelError
from ..escape import shell_word, shown
from ..patterns import hinted, layer_of, without
from ..plan.changes import AxisGeometry, LayerChange, Mode
from ..resampling.arrays import spatial_axes
from ..resampling.geometry import is_whole, new_size
from ..text import scale_text
from .layers import Cells, ConvAxis, Unclear, Weight, grid_cells
from .position_grid import grid_of, position_grid
from .reading_by_name import NOT_NEEDED, RESAMPLED, Reading
from .roles import ABSORB, AUTO, SUPERSAMPLE, checked_mode, role_of, settings_of
from .rules import convolution, is_patch, reads_grid, values, writes_grid
from .settings import Hints, Settings
from .weight_norm import by_tap, computed_from, is_length, length_of

_LARGEST_KERNEL = 31  # the largest kernel of published ConvNets; a longer trailing axis is not a kernel


@dataclass(frozen=True)
class Layer:
    """One tensor, with everything that is known about it.

    shape : shape of this tensor, in the file's order of axes
    shapes : shapes of all tensors of the checkpoint, in PyTorch's order of axes
    aligned : whether pixel 0 stays pixel 0 on the grids inside the network
    image : height and width of the trained image, if a config.json beside the weights tells them
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    settings: Settings
    hints: Hints
    family: Family | None
    reading: Reading
    layout: Layout = PYTORCH
    aligned: bool = False
    image: tuple[int, int] | None = None

    @property
    def weight(self) -> Weight:
        """The tensor, as the rules take it."""
        return Weight(self.name, self.dtype, self.shape)

    def kept(self, reason: str) -> LayerChange:
        """The entry of a plan that leaves the tensor as it is."""
        return self.weight.kept(reason)

    def change(self) -> LayerChange:
        """The change of this tensor, which was selected; raises `Unclear` where shape and name do not decide."""
        if self.reading.resample or (self.reading.mode == ABSORB and self.name not in self.reading.readers):
            self._check_grids()
            return self.kept(RESAMPLED if self.reading.resample else NOT_NEEDED)
        facts = self.family.facts(self.name, self.shapes) if self.family else None
        if facts and facts.refusal:
            raise RekernelError(
                f"{shown(self.name)} {list(self.shape)}: {facts.refusal}, or leave the layer out: ", without(self.name)
            )
        if is_length(self.name, self.shapes):
            return self.kept("length of a weight norm: it stays unless the direction is rescaled")
        if why := computed_from(self.name, self.shapes):
            raise Unclear(f"left as it is: {why}")
        if self.hints.given("output_grid", self.name):
            return self._linear("out")
        if (facts and facts.role == "positions") or self.hints.given("grid", self.name):
            return self._positions(facts)
        if len(self.shape) < 2:
            return self.kept("bias, norm or scalar: no spatial axis")
        if facts and facts.view:
            return self._conv(facts, facts.layout)
        if len(self.shape) == 2:
            if self.hints.given("linear_grid", self.name):
                return self._linear("in")
            if is_table(self.name) and not re.search(r"(^|[._/])(text|language)", self.name):
                raise Unclear(*self._suspect_table())
            self._suspect_grid()
            return self.kept("fully connected: no spatial axis")
        layout = self._asked_layout() or (facts.layout if facts else "") or self._guessed_layout()
        if layout is None:
            return self.kept("more than two axes, but not a convolution")
        return self._conv(facts or LayerFacts(stride=0), layout)

    def _conv(self, facts: LayerFacts, layout: str) -> LayerChange:
        view = facts.view or self.shape
        positions = spatial_axes(view, layout)
        kernel = tuple(view[axis] for axis in positions)
        scales = self.settings.scales(len(kernel))
        if scales is None and self.reading.mode == ABSORB:
            raise RekernelError(
                f"{shown(self.name)} {list(self.shape)}: reads the image along {len(kernel)} axes, but the scale "
                f"{scale_text(self.settings.scale)} has {len(self.settings.scale)}; pass one number, or one for each "
                f"axis"
            )
        if scales is None:
            raise Unclear(
                f"has {len(kernel)} spatial axes, but the scale has {len(self.settings.scale)}; give this layer a "
                f"scale of its own with ",
                Option("overrides", "--set"),
            )
        known = self.hints.given("stride", self.name) or facts.stride
        stride = known or 1
        if self.reading.keeps_patch and self.name in self.reading.readers:
            size = "x".join(map(str, kernel))
            return self.kept(
                f"patches of {size} pixels stay, since they cannot grow by the scale; more tokens are read"
            )
        reads = facts.reads_image or self.name in self.reading.readers
        role = role_of((stride,), transposed=facts.role == "conv-transpose", reads_image=reads)
        mode = self._mode(facts)
        network = self.reading.network
        if facts.autoencoder:
            network = replace(network, predicts_noise=False)
        settings = settings_of(self.settings, role, mode, network)
        cuts = reads and settings.method != "dilate"  # each pixel of the image is cut into smaller ones
        if max(kernel) > _LARGEST_KERNEL:
            size = "x".join(map(str, kernel))
            raise Unclear(
                f"in layout {layout} its kernel would be {size}; left as it is. If the layout is another, pass ",
                self._option("..."),
            )
        if all(k == 1 for k in kernel) and stride == 1 and mode != ABSORB:
            return self.kept("1x1 convolution: pointwise")
        dilation = self.hints.given("dilation", self.name) or 1
        # Boxes of whole pixels are the same wherever the kernel lies, so the stride and the padding may stay unknown.
        anywhere = mode == ABSORB and settings.whole and settings.method in ("area", "nearest") and not known
        padding = self._padding(kernel, facts, stride, dilation, anywhere=anywhere)
        axes = [
            ConvAxis(AxisGeometry(k, stride, padding, dilation), scale, 1.0 if mode == ABSORB else scale)
            for k, scale in zip(kernel, scales, strict=True)
        ]
        what = "patch embedding" if mode == ABSORB and is_patch(axes) else "convolution"
        step = "unknown" if anywhere else stride
        # No program loads a single file with larger kernels, so its weights stay and the layers are dilated.
        keeps = (settings.method, settings.gain) == ("dilate", "dc") and isinstance(self.family, SingleFileDiffusion)
        keeps = keeps and all(map(is_whole, scales))
        with self._named():
            change = convolution(
                self.weight, axes, settings, first=positions[0], mode=mode, view=view,
                reason=f"{what}, stride {step}: {mode}s", transposed=facts.role == "conv-transpose",
                aligned=(self.aligned and not cuts, self.aligned), factored=keeps,
            ).change  # fmt: skip
        if by_tap(change, self.shapes):
            raise Unclear("its weight norm has a length for each tap, which rescaling mixes; left as it is")
        return change

    def _mode(self, facts: LayerFacts) -> Mode:
        given = self.hints.given("mode", self.name)
        if given is not None and given != AUTO and self.reading.per_layer:
            with self._named():
                return checked_mode(given)
        if self.reading.per_layer:
            # The families that name a patch embedding are vision transformers, whose output is not an image.
            return ABSORB if facts.role == "patch" else SUPERSAMPLE
        return self.reading.mode

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Put the name of the tensor in front of an error: a rule does not know the name."""
        try:
            yield
        except RekernelError as error:
            named = f"{shown(self.name)} {list(self.shape)}: "
            raise RekernelError(named, *error.args, "; or leave the layer out: ", without(self.name)) from None

    def _padding(
        self, kernel: tuple[int, ...], facts: LayerFacts, stride: int, dilation: int, *, anywhere: bool
    ) -> tuple[int, int]:
        """The padding of a convolution. If its taps are the same `anywhere`, that of an even kernel may be 0."""
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
            if anywhere:
                return 0, 0
            if known:
                raise RekernelError(
                    f"{shown(self.name)}: an even kernel of stride {stride} has no usual padding; pass ",
                    Option("hints=Hints(padding=...)", "--padding"),
                )
            name = layer_of(self.name)
            raise Unclear(
                f"has an even kernel, {'x'.join(map(str, kernel))}, so it is probably strided; left as it is. Pass ",
                Option(
                    f"hints=Hints(stride={{{shown(name)!r}: N}}, padding={{{shown(name)!r}: P}})",
                    f"--stride {shell_word(f'{name}=N')} and --padding {shell_word(f'{name}=P')}",
                ),
            )
        side = dilation * (kernel[-1] - 1) // 2
        return side, side

    def _linear(self, side: str) -> LayerChange:
        what = "linear_grid" if side == "in" else "output_grid"
        grid = tuple(self.hints.given(what, self.name))
        order = self.hints.given("order", self.name) or self.layout.order
        scales = self.settings.scales(len(grid) - 1)
        if scales is None:
            raise RekernelError(
                f"{shown(self.name)}: {what} {grid} and scale {self.settings.scale} have different numbers of spatial "
                f"axes; give (C, *spatial), or one scale for each of its spatial axes"
            )
        if len(self.shape) > 2 or (side == "in" and len(self.shape) == 1):
            raise RekernelError(
                f"{shown(self.name)} {list(self.shape)}: {what} is for fully-connected layers; leave it out"
            )
        new_grid = (
            grid[0],
            *(
                new_size(n, s, exact=True, what=f"{shown(self.name)}: a grid of {n}")
                for n, s in zip(grid[1:], scales, strict=True)
            ),
        )
        axis = self._flattened_axis(side)
        cells = self._cells(axis, grid, new_grid, order)
        size = "x".join(map(str, grid))
        if side == "in":
            settings = settings_of(self.settings, None, ABSORB, self.reading.network)
            return reads_grid(self.weight, axis, cells, settings, f"fully connected: reads a {size} grid")
        return writes_grid(self.weight, axis, cells, self.settings, f"writes a {size} grid: values")

    def _flattened_axis(self, side: str) -> int:
        """The axis of a matrix or a bias that is a flattened grid."""
        return self._linear_axes().index("I" if side == "in" else "O") if len(self.shape) == 2 else 0

    def _cells(self, axis: int, grid: tuple[int, ...], new_grid: tuple[int, ...], order: str) -> tuple[Cells, ...]:
        try:
            return grid_cells(self.shape[axis], grid, new_grid, order)
        except RekernelError as error:
            raise RekernelError(
                f"{shown(self.name)}: {error}. Pass another, or leave it out: ", without(layer_of(self.name))
            ) from None

    def _check_grids(self) -> None:
        """Raise for a grid that the tensor cannot have, though it stays: the caller would not learn of the slip."""
        for side, what in (("in", "linear_grid"), ("out", "output_grid")):
            grid = self.hints.given(what, self.name)
            if grid and len(self.shape) == 2:
                self._cells(self._flattened_axis(side), tuple(grid), tuple(grid), "channels-first")

    def _asked_layout(self) -> str | None:
        """The layout that was given for the tensor; one given for all holds for its kin with other numbers of axes."""
        asked: str | None = self.hints.given("layout", self.name)
        if asked is not None and asked == self.hints.layout_of_all():
            return self._layout_of_all()
        return asked

    def _layout_of_all(self) -> str | None:
        """The layout that the framework of the file uses, for a tensor whose name is that of a convolution."""
        axes = self.layout.of(len(self.shape))
        if axes is None or not is_weight(self.name):
            raise Unclear(
                "does not have the name of a convolution; left as it is. If it is one, pass ",
                self._option(axes or "..."),
            )
        if len(self.shape) == 3 and re.search(
            r"(^|[./])(query|key|value|qkv|out|attention_output)[./]kernel", self.name
        ):
            return None  # a matrix of an attention layer, with an axis for the heads
        return axes

    def _linear_axes(self) -> str:
        asked = self.hints.given("layout", self.name) if len(self.shape) == 2 else None
        if asked is None or asked == self.hints.layout_of_all():
            return self.layout.linear
        if sorted(asked) != ["I", "O"]:
            raise RekernelError(f"{shown(self.name)} {list(self.shape)}: layout {shown(asked)} is not OI or IO")
        return str(asked)

    def _option(self, layout: str) -> Option:
        return hinted("layout", layer_of(self.name), layout)

    def _positions(self, facts: LayerFacts | None) -> LayerChange:
        patches = [
            n for n in self.shapes if self.family and (f := self.family.facts(n, self.shapes)) and f.role == "patch"
        ]
        mode: str = self.reading.mode
        if self.reading.per_layer:
            first = patches[0] if patches else self.name
            mode = self.hints.given("mode", self.name) or self.hints.given("mode", first) or ABSORB
        if mode == ABSORB:
            return self.kept("position embeddings: the patch embedding absorbs the scale, so the token grid stays")
        if len(self.shape) == 4:
            return self._position_map()
        if not 2 <= len(self.shape) <= 3:
            raise RekernelError(f"{shown(self.name)} {list(self.shape)}: a grid is for a table of positions")
        patch = self.shapes[patches[0]][2:] if len(patches) == 1 else None
        found = position_grid(
            self.name, self.shapes, hint=self.hints.given("grid", self.name), image=self.image, patch=patch
        )
        scales = self.settings.scales(len(found.grid))
        if scales is None:
            raise Unclear(f"the scale is not one for the {len(found.grid)} axes of its grid; left as it is")
        reason = (
            f"position embeddings on a {'x'.join(map(str, found.grid))} grid: values, no coefficient; {found.prefix} "
            f"class tokens kept"
        )
        cells = self._position_cells(found.grid, scales)
        return values(self.weight, {len(self.shape) - 2: cells}, self.settings, reason, prefix=found.prefix)

    def _suspect_table(self) -> tuple[str | Option, ...]:
        """The reason to leave a table of positions in a network of no known family."""
        return (
            "looks like a table of positions, whose grid no name tells; left as it is. If it is one of patches, pass ",
            grid_of(self.name),
        )

    def _position_map(self) -> LayerChange:
        """A table (1, H, W, C), which shows its grid itself."""
        grid, scales = self.shape[1:3], self.settings.scales(2)
        if scales is None:
            raise Unclear("the scale is not one for the two axes of its grid; left as it is")
        height, width = self._position_cells(grid, scales)
        reason = f"position embeddings on a {'x'.join(map(str, grid))} grid: values, no coefficient"
        return values(self.weight, {1: [height], 2: [width]}, self.settings, reason)

    def _position_cells(self, grid: Sequence[int], scales: Sequence[float]) -> list[Cells]:
        what = f"{shown(self.name)}: a token grid of"
        return [Cells(n, new_size(n, s, exact=True, what=f"{what} {n}")) for n, s in zip(grid, scales, strict=True)]

    def _guessed_layout(self) -> str | None:
        """PyTorch's layout if shape and name are those of a convolution; raises `Unclear` where they are not."""
        shape, option = self.shape, self._option
        usual = "OIHW" if len(shape) == 4 else "OIDHW"
        if len(shape) > 5:
            return None
        if re.search(
            r"pos(ition)?(al)?_?(bias_table|embed|emb\b|enc)|(^|[._])(cls|class|mask|reg(ister)?)_token", self.name
        ):
            if is_table(self.name):
                raise Unclear(*self._suspect_table())
            raise Unclear(
                "looks like a position embedding or a token, but its model family is not recognised; left as it is"
            )
        if self.layout is not PYTORCH:
            return self._layout_of_all()
        if length := length_of(self.name, self.shapes):
            usual = "OIW" if len(shape) == 3 else usual
            raise Unclear(
                f"is the direction of a weight norm, and {shown(length)} its length, which has to change with it; left "
                f"as they are. To rescale both, pass ",
                option(usual),
            )
        if len(shape) == 3:
            has_bias = self.name.endswith(".weight") and self.shapes.get(layer_of(self.name) + ".bias") == shape[:1]
            if shape[-1] == 1 or (has_bias and shape[-1] <= _LARGEST_KERNEL):
                return "OIW"
            raise Unclear("may or may not be a Conv1d; left as it is. If it is one, pass ", option("OIW"))
        if self.name.endswith((".kernel", "/kernel")) or min(shape[-2:]) > _LARGEST_KERNEL >= max(shape[:-2]):
            guess = "HWIO" if len(shape) == 4 else "DHWIO"
            raise Unclear(f"looks like layout {guess}; left as it is. If it is, pass ", option(guess))
        if max(shape[1:-1]) <= _LARGEST_KERNEL < shape[-1] and len(set(shape[1:-1])) == 1:
            guess = "OHWI" if len(shape) == 4 else "ODHWI"
            raise Unclear(f"looks like layout {guess}; left as it is. If it is, pass ", option(guess))
        if not is_weight(self.name) or max(shape[2:]) > _LARGEST_KERNEL:
            raise Unclear("may or may not be a convolution; left as it is. If it is one, pass ", option(usual))
        return usual

    def _suspect_grid(self) -> None:
        """Raise `Unclear` if the inputs of a fully-connected layer may be the pixels of a flattened grid."""
        if not is_weight(self.name) or not (self.family is None or isinstance(self.family, MLP)):
            return  # the other families pool or attend before their linear layers
        inputs = self.shapes[self.name][1]
        others = {s for n, s in self.shapes.items() if n != self.name and len(s) >= 2}
        if any(s[0] == inputs for s in others):  # some layer has as many outputs as this one has inputs
            return
        channels = sorted({1, 3} | {s[0] for s in others if len(s) > 2}, reverse=True)
        for c in channels:
            side = math.isqrt(inputs // c)
            if inputs == c * side * side and side > 1 and (c > 3 or side >= 8):
                grid = f"{c},{side},{side}"
                raise Unclear(
                    f"may read a {grid} grid; left as it is. If it does, pass ",
                    hinted("linear_grid", layer_of(self.name), (c, side, side), grid),
                )
