"""Record the calls of a pass through a model that read the image grid, and follow the elements of that grid.

Scope: what each torch function does to tensors on the grid. Not here: the functions themselves (see
`tracing.functions`), how the pass is run (see `tracing.run`), and scales, methods and plans (see `torch.planning`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..layers.padding import own_padding
from .commuting import commutes
from .functions import (
    KEEPS_SCORES,
    MOVES,
    NORMS,
    PRODUCTS,
    Function,
    argument,
    attended_tokens,
    function_of,
    name_of,
    reduced_axes,
)
from .layer_call import LayerCall
from .shape_only import computing, is_fake
from .steps import IN_FRONT, StepLog
from .tables import Tables
from .tensor_notes import TensorNotes
from .tensor_state import (
    Pad,
    State,
    first_tensor,
    flattened,
    fresh,
    moved_tokens,
    on_pixels,
    pads_by_axis,
    pixels_behind,
    reduced,
    several_pixels,
    skips_pixels,
    tensors_in,
    unflattened,
)


@dataclass(frozen=True)
class _Event:
    """One torch function as the pass called it.

    func, args, kwargs, result : the function, its arguments and its result
    tensors : the arguments whose state is known
    x : the first argument that is a tensor
    sources : indices of the calls that `tensors` came from
    """

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any
    tensors: list[Tensor]
    x: Tensor
    sources: frozenset[int]


class Recorder(TorchFunctionMode):
    """A torch function mode that sees every function of the pass, at the level at which modules call them."""

    def __init__(self, model: nn.Module, modules: list[str]) -> None:
        super().__init__()
        self.calls: list[LayerCall] = []
        self.log = StepLog()
        self._modules = modules
        self._names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(name)
            self.log.hold(parameter)
        self._by_path = dict(model.named_modules())
        self._states: TensorNotes[State] = TensorNotes()
        self._scores: TensorNotes[bool] = TensorNotes()
        self._tables = Tables()
        for buffer in model.buffers():
            self.log.hold(buffer)

    def state(self, tensor: Tensor) -> State | None:
        """What is known about a tensor; None for a tensor that does not come from the image."""
        return self._states.get(tensor)

    def mark(
        self, tensor: Tensor, sources: frozenset[int], *, by_hand: tuple[Pad, ...] = (), mode: str = "constant"
    ) -> None:
        """Note a tensor that lies on a grid."""
        self._states[tensor] = replace(fresh(tensor, sources), by_hand=by_hand, by_hand_mode=mode)

    def begin(self, image: Tensor) -> None:
        """Note a tensor that the model is given and that lies on the grid of the image; (N, T) is a signal."""
        self.mark(image, frozenset({0}))
        if image.ndim == 2:
            n, length = image.shape
            with computing():
                places = torch.arange(n * length).reshape(n, length)
            self._states[image] = State(frozenset({0}), origin=(n, 1, length), index=places, flat=True)
        self.log.begin(image)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._tables.note(func, args, result, self._name)
        given = tensors_in((args, kwargs))
        self.log.add(func, self._module() if self._modules else IN_FRONT, args, kwargs, result, given)
        tensors = [a for a in given if a in self._states]
        if tensors or (func is nn.functional.linear and args and args[0].ndim == 2):
            with computing():  # positions are real tensors, even in a pass with fake ones
                self._note(func, args, kwargs, result, tensors)
        return result

    def _note(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, tensors: list[Tensor]
    ) -> None:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        x = first if first is not None else tensors_in([args, kwargs])[0]
        function = function_of(func)
        if function is not None and 0 < function.image_axes <= x.ndim:
            self._begin_grid(x)
        event = _Event(func, args, kwargs, result, tensors, x, self._sources(tensors))
        handler = _HANDLERS.get(function.kind) if function is not None else None
        if function is None or handler is None or not handler(self, event, function):
            self._pass_on(event)

    # Each handler adds the call to `calls`. It returns whether it noted the state of the result, too; where it did not,
    # `_pass_on` does.

    def _convolution(self, event: _Event, function: Function) -> bool:
        weight = argument(event.args, event.kwargs, 1, "weight")
        given = self._padded(event)
        hand = {"by_hand": given.by_hand, "by_hand_mode": given.by_hand_mode, "inside": given.inside} if given else {}
        self._add(
            function.kind, event, function.dims, weight=self._name(weight), kernel=tuple(weight.shape[2:]), **hand
        )
        return True

    def _pool(self, event: _Event, function: Function) -> bool:
        given = self._padded(event)
        hand = {"by_hand": given.by_hand, "by_hand_mode": given.by_hand_mode} if given else {}
        self._add(function.kind, event, function.dims, **hand)
        return True

    def _padded(self, event: _Event) -> State | None:
        """The state of the tensor that a layer reads; the layer takes over the explicit padding in it."""
        given = self.state(event.x)
        if given is not None:
            self.log.handled |= set(given.pads)
        return given

    def _adaptive_pool(self, event: _Event, function: Function) -> bool:
        self._add(function.kind, event, function.dims, fixed=True)
        return True

    def _upsample(self, event: _Event, function: Function) -> bool:
        fixed = argument(event.args, event.kwargs, 1, "size") is not None
        self._add(function.kind, event, event.x.ndim - 2, fixed=fixed)
        return True

    def _by_pixel(self, event: _Event, function: Function) -> bool:
        self._append("by-pixel", event.sources, what=function.what)
        return False

    def _index(self, event: _Event, function: Function) -> bool:
        return skips_pixels(self.state(event.x), event.args[1]) and self._by_pixel(event, function)

    def _linear(self, event: _Event, _function: Function) -> bool:
        name = self._name(argument(event.args, event.kwargs, 1, "weight"))
        state = self.state(event.x)
        if several_pixels(state, event.x) and not (state and state.flat):
            grid, order = flattened(state, event.x)
            self._append("linear", event.sources, weight=name, grid=grid, order=order)
            if event.x.ndim == 2:
                self._note_features(event.result, name, frozenset())
            return True
        if event.x.ndim == 2:
            self._note_features(event.result, name, event.sources)
            return True
        return False

    def _attention(self, event: _Event, _function: Function) -> bool:
        self._add("attention", event, 0, keys=attended_tokens(event.func, event.args, event.kwargs, event.x))
        return True

    def _softmax(self, event: _Event, function: Function) -> bool:
        return self._attention(event, function) if event.x in self._scores else False

    def _sum(self, event: _Event, _function: Function) -> bool:
        found = self._tables.added(event.args, self._name, self.state)
        if found is not None:
            self._append(
                "positions", event.sources, weight=found.name, size=found.grid, out_size=found.grid, prefix=found.prefix
            )
        return False

    def _concatenate(self, event: _Event, _function: Function) -> bool:
        """Note tokens that were put in front of those of the image."""
        parts = argument(event.args, event.kwargs, 0, "tensors", ())
        dim = argument(event.args, event.kwargs, 1, "dim", 0)
        known = [self.state(p) for p in parts]
        last = known[-1] if known else None
        if last is None or not last.tokens or dim not in (1, -2) or any(s and s.sources for s in known[:-1]):
            return False
        ahead = sum(int(p.shape[1]) for p in parts[:-1])
        self._states[event.result] = State(last.sources, tokens=last.tokens, prefix=last.prefix + ahead)
        return True

    def _pad(self, event: _Event, _function: Function) -> bool:
        given = self.state(event.x)
        if self._pads_by_mode() or given is None or not (given.in_place or pixels_behind(given, event.x)):
            return False
        pads = argument(event.args, event.kwargs, 1, "pad")
        mode = argument(event.args, event.kwargs, 2, "mode", "constant")
        if argument(event.args, event.kwargs, 3, "value"):
            return False
        by_axis = pads_by_axis(pads, event.x.ndim - 2)
        before = given.by_hand if given.by_hand_mode == mode else ()
        if before:
            by_axis = tuple((a + c, b + d) for (a, b), (c, d) in zip(before, by_axis, strict=True))
        for out in tensors_in(event.result):
            self._states[out] = replace(
                fresh(out, event.sources),
                by_hand=by_axis,
                by_hand_mode=mode,
                pads=(*(given.pads if before else ()), len(self.log.steps) - 1),
                inside=isinstance(self._by_path.get(self._module()), nn.modules.conv._ConvNd),
            )
        return True

    def _pass_on(self, event: _Event) -> None:
        """Give the result the sources of the inputs, and the positions of their elements where those are known."""
        sources, tensors = event.sources, event.tensors
        outputs = tensors_in(event.result)
        name = name_of(event.func)
        if name in PRODUCTS or (name in KEEPS_SCORES and any(t in self._scores for t in tensors)):
            for out in outputs:
                self._scores[out] = True
        same = 0 not in sources or self._pads_by_mode() or commutes(name, event.args, event.kwargs, self._is_image)
        if outputs and not same:
            self._append("other", sources, what=name or str(event.func))
        moved = self._moved(event, outputs)
        for position, out in enumerate(outputs):
            state = State(sources)
            # Of the inputs of a sum, take the one whose positions are known.
            alike = [t for t in tensors if t.shape == out.shape]
            like = next((t for t in alike if (s := self.state(t)) and s.origin), alike[0] if alike else None)
            given = self.state(tensors[0])
            assert given is not None
            if moved is not None:
                state.origin, state.index = given.origin, moved[position]
                state.rows = given.rows
                if not state.rows and on_pixels(state):  # in place again, or with other channels
                    state = fresh(out, sources)
                    self._states[out] = state
                    continue
                unflattens = isinstance(self._by_path.get(self._module()), nn.Unflatten)
                state.reshaped = self._module() if unflattens and given.in_place else given.reshaped
                state.tokens = moved_tokens(state)
            elif like is not None and (known := self.state(like)) is not None:
                state = known if known.sources == sources else replace(known, sources=sources)
                if event.func in NORMS and out.ndim == 2:  # one weight for each feature
                    state = replace(state, in_place=False, index=known.places())
            elif given.in_place and out.ndim == len(given.origin):
                if all(n == 1 for n in out.shape[2:]):
                    continue  # reduced to one pixel, which is not a grid
                state = fresh(out, sources)
            elif (axes := reduced_axes(name, event.args, event.kwargs)) is not None:
                left = reduced(given, axes, out)
                if left is None:
                    continue
                state = replace(left, sources=sources)
            if sources or state.rows:
                self._states[out] = state

    def _moved(self, event: _Event, outputs: list[Tensor]) -> list[Tensor] | None:
        """The positions of the elements after a move: the same function, applied to the positions before it."""
        args, kwargs = event.args, event.kwargs
        if name_of(event.func) not in MOVES or not args or not isinstance(args[0], Tensor):
            return None
        state = self.state(args[0])
        index = state.places() if state is not None else None
        if index is None:
            return None
        if any(is_fake(t) for t in tensors_in([args[1:], kwargs])):
            # `trace` catches this and runs the model again, with values.
            raise RuntimeError("an index depends on tensor values, which shape-only tracing does not have")
        # In order, since `view` may suit the tensor and not the strides that earlier moves left to its positions.
        indices = tensors_in(event.func(index.contiguous(), *args[1:], **kwargs))
        return indices if [i.shape for i in indices] == [o.shape for o in outputs] else None

    def _is_image(self, tensor: Tensor) -> bool:
        state = self.state(tensor)
        return state is not None and 0 in state.sources

    def _sources(self, tensors: list[Tensor]) -> frozenset[int]:
        found = (state.sources for t in tensors if (state := self.state(t)))
        return frozenset().union(*found)

    def _append(self, kind: str, sources: frozenset[int], **more: Any) -> LayerCall:
        call = LayerCall(len(self.calls) + 1, kind, self._module(), sources, **more)
        self.calls.append(call)
        return call

    def _add(self, kind: str, event: _Event, dims: int, **more: Any) -> None:
        """Append a call that reads `dims` spatial axes, and note its results."""
        x, out = event.x, first_tensor(event.result)
        assert out is not None
        size = tuple(x.shape[x.ndim - dims :]) if dims else ()
        out_size = tuple(out.shape[out.ndim - dims :]) if dims else ()
        if kind == "conv" and self._pads_by_mode():  # torch has padded already; the grid is the one before its padding
            own = own_padding(self._by_path[self._module()])
            size = tuple(n - left - right for n, (left, right) in zip(size, own, strict=True))
        call = self._append(kind, event.sources, size=size, out_size=out_size, **more)
        if kind == "adaptive-pool" and all(n == 1 for n in out_size):
            return
        for each in tensors_in(event.result):
            if dims:
                self.mark(each, frozenset({call.index}))
            else:
                self._states[each] = State(event.sources)

    def _note_features(self, result: Tensor, weight: str, sources: frozenset[int]) -> None:
        """Note the outputs of a linear layer on (N, F): they may turn out to be the pixels of a new grid."""
        self._states[result] = State(sources, origin=tuple(result.shape), in_place=True, rows=weight)

    def _begin_grid(self, x: Tensor) -> None:
        """Note that a linear layer wrote an image, if `x` holds its features and is read as pixels."""
        state = self.state(x)
        if state is None or not state.rows or x.shape[0] != state.origin[0] or math.prod(x.shape[2:]) == 1:
            return
        grid, order = unflattened(state, x)
        call = self._append(
            "linear-out", state.sources, weight=state.rows, size=grid[1:], out_size=grid[1:], grid=grid, order=order,
            what=state.reshaped,
        )  # fmt: skip
        self.mark(x, frozenset({call.index}))

    def _name(self, parameter: Any) -> str:
        """The full name of a parameter; of several names, the one in the module that is running."""
        names = self._names.get(id(parameter), [])
        here = f"{self._module()}." if self._module() else ""
        return next((n for n in names if n.removeprefix(here).count(".") == 0 and n.startswith(here)), "") or (
            names[0] if names else ""
        )

    def _module(self) -> str:
        return self._modules[-1] if self._modules else ""

    def _pads_by_mode(self) -> bool:
        """Whether a convolution is padding its own input, as its `padding_mode` says: this is not explicit padding."""
        module = self._by_path.get(self._module())
        return isinstance(module, nn.modules.conv._ConvNd) and module.padding_mode != "zeros"


_HANDLERS: dict[str, Callable[[Recorder, _Event, Function], bool]] = {
    "conv": Recorder._convolution,
    "conv-transpose": Recorder._convolution,
    "max-pool": Recorder._pool,
    "avg-pool": Recorder._pool,
    "adaptive-pool": Recorder._adaptive_pool,
    "upsample": Recorder._upsample,
    "by-pixel": Recorder._by_pixel,
    "index": Recorder._index,
    "linear": Recorder._linear,
    "attention": Recorder._attention,
    "softmax": Recorder._softmax,
    "sum": Recorder._sum,
    "concatenate": Recorder._concatenate,
    "pad": Recorder._pad,
}
"""The handler of each kind of function."""
