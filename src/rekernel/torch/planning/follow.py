"""Follow the scale of the grid from call to call of a trace, and decide what each layer does about it.

Scope: how scales travel. A layer that supersamples passes its scale on, a layer that absorbs makes it 1, and it ends at
a flatten. Not here: what becomes of a layer (see `planning.rules`), and the plan (see `torch.planning.planner`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...errors import RekernelError
from ...escape import shown
from ...patterns import matcher
from ...plan.changes import LayerChange, Mode, ModuleChange
from ...planning.roles import ABSORB, AUTO, SUPERSAMPLE, Network, Role, aligned, patches_stay, role_of, settings_of
from ...planning.rules import offset_note, resampled_image, resized, shrinking_note
from ...planning.settings import Settings
from ...resampling.geometry import new_size
from ...text import dims
from ..given_grids import picture_of
from ..layers.module_names import aliases, owner_of
from ..layers.own_forward import OwnForward
from ..tracing.layer_call import LayerCall
from ..tracing.run import Trace
from .convolutions import change_notes, conv_change, is_pruned
from .grids import (
    arriving_scales,
    grid_given,
    grown,
    linear_change,
    positions_change,
    size_taken_over,
    sizes,
    unflatten_fits,
    weight_of,
    written_change,
)
from .own_calls import form_of
from .pools import POOLS, adaptive_scales, ends_grid, functional_note, joined, pool_change, whole_grid_doubt
from .reading import Reading, reading
from .windows import window_changes, window_of

_POOLS = ("max-pool", "avg-pool")


@dataclass
class Follower:
    """The state of planning one model.

    excluded : names of the tensors that were not selected
    predicts_noise : whether the model is a noise predictor
    asked : mode that the caller asked of the model
    each : settings of the weights that have settings of their own
    changes, modules, notes : parts of the plan, as far as it is made
    doubts : what may be wrong if the rescaled model does not run
    scales, sizes : scale and old grid of the result of each call, by the index of the call
    offsets : distance of the result of each call from its exact place, in new pixels; 0 where nothing is listed
    arrived : scale of the grid that each call reads, by the index of the call
    made_up : offset of its input that a convolution makes up for, in new pixels, by the index of the call
    expected : new grid of the result of the last call in each module
    conflicts : names of weights that two layers need in different forms
    seen_at : scale at which each weight was seen
    own : what the forward methods of subclasses of a convolution do, by the path of the layer
    by_path, tensors, others : modules and tensors of the model by name, and all names of each tensor
    """

    model: nn.Module
    trace: Trace
    settings: Settings
    scale: tuple[float, ...]
    modes: Mapping[str, Mode]
    excluded: set[str]
    form: str
    predicts_noise: bool = False
    asked: str = AUTO
    own: Mapping[str, OwnForward] = field(default_factory=dict)
    each: Mapping[str, Settings] = field(default_factory=dict)
    changes: dict[str, LayerChange] = field(default_factory=dict)
    modules: dict[str, ModuleChange] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    scales: dict[int, tuple[float, ...]] = field(default_factory=dict)
    sizes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    offsets: dict[int, tuple[float, ...]] = field(default_factory=dict)
    arrived: dict[int, tuple[float, ...]] = field(default_factory=dict)
    made_up: dict[int, tuple[float, ...]] = field(default_factory=dict)
    expected: dict[str, tuple[int, ...]] = field(default_factory=dict)
    conflicts: set[str] = field(default_factory=set)
    seen_at: dict[str, tuple[float, ...]] = field(default_factory=dict)
    by_path: dict[str, nn.Module] = field(init=False)
    tensors: dict[str, Any] = field(init=False)
    others: Mapping[str, Sequence[str]] = field(init=False)
    network: Network = field(init=False)
    reading: Reading = field(init=False)
    aligned: bool = field(init=False)

    def __post_init__(self) -> None:
        self.by_path = dict(self.model.named_modules())
        self.tensors = dict(self.model.state_dict())
        self.others = aliases(self.model)
        attends = any(call.kind == "attention" and call.sources for call in self.trace.calls)
        self.network = Network(attends, self.trace.gives_image, self.predicts_noise)
        self.reading = reading(
            self.trace, self.by_path, self.scale, self.network, self.asked, self.modes, self.excluded, self.own
        )
        self.aligned = aligned(self.settings, self.network, reads_image=False)[0]

    def run(self) -> None:
        if self.reading.resample:
            pixels = sizes(self.trace.size, self.scale)
            self.modules[""] = resampled_image(self.reading.resample, self.settings, pixels)
            self._say(
                f"{self.reading.resample}; the weights stay, and the image is resampled to the trained size in front "
                f"of the model"
            )
            return
        if not self.trace.latent:
            self.scales[0], self.sizes[0] = self.scale, self.trace.size
        for call in self.trace.calls:
            arriving = leaving = self.arrived[call.index] = self._arriving(call)
            if call.kind in ("conv", "conv-transpose"):
                leaving = self._conv(call, arriving)
            elif call.kind in _POOLS:
                leaving = self._pool(call, arriving)
            elif call.kind == "adaptive-pool":
                leaving = adaptive_scales(call, self.by_path.get(call.module), arriving)
            elif call.kind == "upsample":
                leaving = self._upsample(call, arriving)
            elif call.kind == "linear":
                self._linear(call, arriving)
            elif call.kind == "linear-out":
                leaving = self._linear_out(call)
            elif call.kind == "positions":
                self._positions(call, arriving)
            elif call.kind == "attention":
                self._window(call, arriving)
            elif call.kind == "by-pixel" and any(s != 1 for s in arriving):
                self._say(
                    f"{call.module or 'the model itself'}: {call.what} has a fixed size in pixels and cannot be "
                    f"rescaled; at the new resolution it covers a smaller part of the image"
                )
            given = grid_given(call, leaving, self.scales, self.sizes)
            self.scales[call.index], self.sizes[call.index] = given
            if len(leaving) == len(call.out_size):
                self.expected[call.module] = tuple(new_size(n, s) for n, s in zip(call.out_size, leaving, strict=True))

        for index, offset in [(i, self.offsets[i]) for i in sorted(self.trace.output) if i in self.offsets]:
            self._say(offset_note(self.trace.calls[index - 1].module or "the model itself", offset))

    def _offset(self, call: LayerCall) -> tuple[float, ...]:
        """The distance of the features that a call reads from their exact place, in new pixels; empty for 0."""
        found = {self.offsets.get(source, ()) for source in call.sources}
        if len(found) > 1:
            listed = ", ".join(f"{max(map(abs, offset), default=0.0):g}" for offset in sorted(found))
            self._say(
                f"{call.module or 'the model itself'}: joins features that lie {listed} pixels beside their place"
            )
        longest = max(found, key=len, default=())
        return longest if len(longest) == len(call.size) else ()

    def _arriving(self, call: LayerCall) -> tuple[float, ...]:
        """The scale of the grid that a call reads, for the spatial axes of the call."""
        found = arriving_scales(call, self.scales, self.sizes)
        if len(found) > 1:
            self._say(f"{call.module}: reads grids at different scales {sorted(found)}; planned for the largest")
        return max(found, default=())

    def _conv(self, call: LayerCall, arriving: tuple[float, ...]) -> tuple[float, ...]:
        m: Any = self.by_path.get(owner_of(call.weight)) if call.weight else None
        own = isinstance(m, nn.modules.conv._ConvNd) and any(
            call.weight == n for n in (f"{call.module}.weight", "weight" if not call.module else "")
        )
        if not own:
            if any(s != 1 for s in arriving) and max(call.kernel) > 1:
                pruned = is_pruned(self.by_path.get(call.module))
                way_out = " (pruned: apply torch.nn.utils.prune.remove first)" if pruned else ""
                self._say(
                    f"{call.module or 'the model itself'}: a functional convolution, or one with a computed weight"
                    f"{way_out}, cannot be rescaled; at the new resolution it covers a smaller part of the image"
                )
                if call.weight:
                    self._conflict(call.weight, "is read by a functional convolution")
            return arriving
        mode = self._mode(call)
        if all(k == 1 for k in m.kernel_size) and all(t == 1 for t in m.stride) and mode != ABSORB:
            if any(s != 1 for s in arriving):
                self._keep(call.weight, "1x1 convolution: pointwise")
                if offset := self._offset(call):
                    self.offsets[call.index] = offset
            return arriving
        if self._runs_elsewhere(call, arriving):
            return arriving
        if all(s == 1 for s in arriving):
            return arriving
        if self.reading.keeps_patch and call.weight in self.reading.readers:
            self._keep(
                call.weight, f"patches of {dims(m.kernel_size)} pixels stay, since they cannot grow by the scale"
            )
            self._say(patches_stay(m.kernel_size, arriving))
            return arriving
        leaving = (1.0,) * len(arriving) if mode == ABSORB else arriving
        if call.weight in self.excluded:
            self._keep(call.weight, "not selected")
            return arriving
        form = form_of(call, m, self.own.get(call.module), self.form)
        with self._named(call.weight):
            role = self._role(call, m.stride)
            asked, far = self.each.get(call.weight, self.settings), max(m.dilation)
            settings = settings_of(asked, role, mode, self.network, dilation=far)
            cuts = role is Role.READS_IMAGE and settings.method != "dilate"
            at_0 = (self.aligned and not cuts, self.aligned)
            tensor = self.tensors[call.weight]
            # A weight that several calls read cannot make up for different offsets.
            alone = sum(other.weight == call.weight for other in self.trace.calls) == 1
            offset = self._offset(call) if alone and not self.aligned and call.kind == "conv" else ()
            self.made_up[call.index] = offset
            change = conv_change(call, m, tensor, arriving, leaving, mode, form, settings, at_0, offset)
        for note in (*change_notes(call, arriving, form), shrinking_note(leaving, change.geometry)):
            if note:
                self._say(note)
        for name in self.others[call.weight]:
            before = self.changes.get(name)
            if before is not None and not before.kept and _differ(before, change):
                self._conflict(call.weight, "needs different kernels in different places")
                return arriving
        if any(n in self.conflicts for n in self.others[call.weight]):
            return arriving
        self.changes[call.weight] = change
        return leaving

    def _runs_elsewhere(self, call: LayerCall, arriving: tuple[float, ...]) -> bool:
        """Whether the weight was seen at another scale before: one kernel cannot serve both. Notes the conflict."""
        before = [self.seen_at[n] for n in self.others[call.weight] if n in self.seen_at]
        self.seen_at[call.weight] = arriving
        if all(b == arriving for b in before):
            return False
        self._conflict(call.weight, f"runs at the scales {before[0]} and {arriving}")
        return True

    def _conflict(self, weight: str, why: str) -> None:
        for name in self.others[weight]:
            self._keep(name, f"one weight {why}")
            self.conflicts.add(name)
        self._say(f"{weight}: one weight {why}; left as it is everywhere")

    def _pool(self, call: LayerCall, arriving: tuple[float, ...]) -> tuple[float, ...]:
        module = self.by_path.get(call.module)
        if all(s == 1 for s in arriving):
            return arriving
        if not isinstance(module, tuple(POOLS)):
            if all(ends_grid(call, self.trace)):
                self.doubts.append(whole_grid_doubt(call))
                return (1.0,) * len(arriving)
            self._say(functional_note(call))
            return arriving
        given = {self.sizes[source] for source in call.sources if source in self.sizes}
        with self._named(call.module):
            became, leaving = pool_change(
                call, module, arriving, self._offset(call), self.trace, aligned=self.aligned, given=given
            )
        strides = [g.stride for g in became.change.new_geometry]
        if any(abs(beside) > 1e-6 for beside in became.offset):
            self.offsets[call.index] = tuple(o / t for o, t in zip(became.offset, strides, strict=True))
        if became.change.new_geometry == became.change.geometry and not became.change.by_hand:
            return leaving
        self.modules[call.module], conflict = joined(self.modules.get(call.module), became.change)
        if conflict:
            self._say(f"{call.module}: pools several grids that need different windows; planned for the last one")
        return leaving

    def _upsample(self, call: LayerCall, arriving: tuple[float, ...]) -> tuple[float, ...]:
        module = self.by_path.get(call.module)
        if offset := self._offset(call):
            factors = [m / n for n, m in zip(call.size, call.out_size, strict=True)]
            self.offsets[call.index] = tuple(o * factor for o, factor in zip(offset, factors, strict=True))
        arriving = size_taken_over(call, arriving, self.sizes, self.scales)
        if call.fixed and isinstance(module, nn.Upsample) and any(s != 1 for s in arriving):
            self.modules[call.module] = resized(call.module, "upsample", sizes(call.out_size, arriving), "fixed size")
        return arriving

    def _linear(self, call: LayerCall, arriving: tuple[float, ...]) -> None:
        if all(s == 1 for s in arriving):
            return
        if not call.weight or not call.grid or not isinstance(self.by_path.get(owner_of(call.weight)), nn.Linear):
            raise RekernelError(
                f"{call.module or 'the model itself'}: a linear layer reads pixels of the grid in an order that is "
                f"neither channels-first nor channels-last, or has a computed weight (a matrix that mixes tokens, say)"
            )
        if len(self.trace.size) == 1 and 0 in call.sources and call.grid[0] == 1:
            self._say(
                f"{call.weight}: its {call.grid[1]} inputs are taken for a signal; for a picture pass an example input "
                f"(N, C, H, W), or grids={{{call.module!r}: {picture_of(call.grid[1])}}} where its pixels are flat"
            )
        if call.weight in self.excluded:
            raise RekernelError(f"{call.weight}: reads a grid that grows, so it cannot be excluded")
        role = Role.READS_IMAGE if 0 in call.sources else None
        settings = settings_of(self.each.get(call.weight, self.settings), role, ABSORB, self.network)
        change = linear_change(call, self.tensors[call.weight], arriving, settings)
        before = self.changes.get(call.weight, change)
        if before != change:
            both = f"{before.reason}; {change.reason}"
            raise RekernelError(f"{call.weight}: one weight reads two grids ({both}), and cannot be rescaled for both")
        self.changes[call.weight] = change

    def _linear_out(self, call: LayerCall) -> tuple[float, ...]:
        """Plan a linear layer that writes an image. Its scale is that of the model: its input has no pixels."""
        count = len(call.size)
        still = (1.0,) * count
        scales = (self.scale if len(self.scale) == count else (still + self.scale)[-count:]) if count else ()
        if all(s == 1 for s in scales) or self._mode(call) == ABSORB:
            return still
        reader, layer = self.by_path[call.module], self.by_path.get(owner_of(call.weight))
        size = "x".join(map(str, call.size))
        why = "not selected" if call.weight in self.excluded else ""
        if not why and any(n in self.changes for n in self.others[call.weight]):
            why = "another layer uses its weight, too"
        bias = f"{owner_of(call.weight)}.bias".removeprefix(".")
        names = [call.weight, *([bias] if bias in self.tensors else [])]
        if not why and isinstance(layer, nn.Linear) and unflatten_fits(call, self.by_path.get(call.what)):
            for name in names:
                self.changes[name] = written_change(call, name, self.tensors[name], scales, self.settings)
            self.modules[call.what] = grown(call, call.what, "unflatten", scales)
        elif why == "not selected" or next(reader.children(), None) is not None:
            self._say(
                f"{call.weight}: writes a grid of {size} pixels that stays as it is "
                f"({why or 'a functional call reads it'}); the layers after it run at their trained size"
            )
            return still
        else:
            # The model's own code shapes the grid, with fixed sizes. The grid is enlarged where a layer reads it.
            self.modules[call.module] = grown(call, call.module, "enlarge", scales)
        return scales

    def _window(self, call: LayerCall, arriving: tuple[float, ...]) -> None:
        """Plan attention in windows. They grow with the grid if their table of relative positions can."""
        grows = any(s != 1 for s in arriving)
        window = window_of(self.model, call.module, call.keys, len(arriving)) if grows else None
        if window is None:
            return
        table = window.table
        why = "the table of relative positions is not selected" if table in self.excluded else window.unfit(arriving)
        if why:
            self._say(window.note(call.module, why))
        elif window.owner not in self.modules:
            change, self.modules[window.owner] = window_changes(
                window, self.tensors[table] if table else None, arriving, self.settings
            )
            if change is not None:
                self.changes[table] = change

    def _positions(self, call: LayerCall, arriving: tuple[float, ...]) -> None:
        if any(s != 1 for s in arriving) and call.weight not in self.excluded and call.weight not in self.changes:
            weight = self.tensors[call.weight]
            self.changes[call.weight] = positions_change(call, weight, arriving, self.settings)

    def _mode(self, call: LayerCall) -> Mode:
        for pattern, mode in self.modes.items():
            if matcher(pattern)(call.weight):
                return mode
        if self.reading.per_layer:  # a vision transformer keeps its tokens unless the caller says otherwise
            reads = call.kind == "conv" and 0 in call.sources
            return ABSORB if reads and self.network.attends and not self.network.gives_image else SUPERSAMPLE
        return ABSORB if call.weight in self.reading.readers and not self.reading.keeps_patch else SUPERSAMPLE

    def _role(self, call: LayerCall, strides: Sequence[int]) -> Role:
        """The role of a layer. One that reads the image and features needs the kernel of an inner layer."""
        same = [other for other in self.trace.calls if other.weight in self.others[call.weight]]
        return role_of(
            strides,
            transposed=call.kind == "conv-transpose",
            reads_image=all(0 in other.sources for other in same),
            writes_image=self.network.gives_image and call.index in self.trace.output,
        )

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Put the name of the layer in front of an error: a rule does not know the name."""
        try:
            yield
        except RekernelError as error:
            raise RekernelError(f"{shown(name)}: ", *error.args) from None

    def _keep(self, name: str, reason: str) -> None:
        self.changes[name] = weight_of(name, self.tensors[name]).kept(reason)

    def _say(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _differ(one: LayerChange, other: LayerChange) -> bool:
    """Whether two changes of one tensor ask for different values or layers."""
    return (one.operators, one.factors, one.new_geometry) != (other.operators, other.factors, other.new_geometry)
