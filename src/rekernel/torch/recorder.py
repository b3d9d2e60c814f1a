"""What a pass does, call by call: which tensors lie on the image grid, and where their elements went.

Knows torch's functions; no scale, method or plan. `trace` runs the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

Pad = tuple[int, int]

_CONVS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_F = nn.functional
_MAX_POOLS = {_F.max_pool1d: 1, _F.max_pool2d: 2, _F.max_pool3d: 3}
_AVG_POOLS = {_F.avg_pool1d: 1, _F.avg_pool2d: 2, _F.avg_pool3d: 3}
_ADAPTIVE_POOLS = {
    _F.adaptive_avg_pool1d: 1, _F.adaptive_avg_pool2d: 2, _F.adaptive_avg_pool3d: 3,
    _F.adaptive_max_pool1d: 1, _F.adaptive_max_pool2d: 2, _F.adaptive_max_pool3d: 3,
}  # fmt: skip
_ATTENTION = {_F.scaled_dot_product_attention, _F.multi_head_attention_forward}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "__matmul__"}
_SCALED = {
    "mul",
    "__mul__",
    "__rmul__",
    "div",
    "__truediv__",
    "add",
    "__add__",
    "__radd__",
    "masked_fill",
    "float",
    "to",
}
_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__"}
# Functions that only move elements: an index that went in comes out, in another place.
_MOVES = {
    "view", "reshape", "flatten", "permute", "transpose", "swapaxes", "movedim", "contiguous", "squeeze", "unsqueeze",
    "unflatten", "chunk", "split", "__getitem__", "t", "narrow", "select", "unbind", "flip",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call that reads the image grid.

    index : position among the calls, from 1; 0 is the model's input
    kind : 'conv', 'conv-transpose', 'max-pool', 'avg-pool', 'adaptive-pool', 'upsample', 'linear', 'attention',
        'positions'
    module : path of the innermost module it happened in
    sources : the calls whose results it reads
    weight : full name of the weight parameter, or empty
    kernel : taps of a convolution
    size, out_size : pixels of the grid before and after, one per spatial axis
    by_hand : padding that F.pad added right before, (left, right) per axis
    by_hand_mode : 'constant' (zeros), or how else
    inside : the convolution's own code did that
    prefix : of position embeddings, tokens in front that are no pixels
    keys : of attention, how many tokens each one looks at
    grid, order : of a linear layer that reads a flattened grid: (C, *spatial), 'channels-first' or 'channels-last'
    fixed : the output size is a number in the call, not a ratio
    """

    index: int
    kind: str
    module: str
    sources: frozenset[int]
    weight: str = ""
    size: tuple[int, ...] = ()
    out_size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    by_hand: tuple[Pad, ...] = ()
    by_hand_mode: str = "constant"
    inside: bool = False
    prefix: int = 0
    keys: int = 0
    grid: tuple[int, ...] = ()
    order: str = ""
    fixed: bool = False


@dataclass
class _State:
    """What is known of a tensor: the calls it came from, padding by hand, and where its elements were.

    origin : shape (N, C, *spatial) of the tensor whose elements these are, only moved since
    index : for each element its flat position there
    in_place : none has moved: this is still (N, C, *spatial)
    tokens, prefix : (N, prefix + prod(tokens), C): the grid of pixels along axis 1, behind tokens that are none
    """

    sources: frozenset[int]
    by_hand: tuple[Pad, ...] = ()
    by_hand_mode: str = "constant"
    inside: bool = False
    origin: tuple[int, ...] = ()
    index: Tensor | None = None
    in_place: bool = False
    tokens: tuple[int, ...] = ()
    prefix: int = 0

    def places(self) -> Tensor | None:
        """The index; made only when something moves, since most grids are never flattened."""
        if self.index is None and self.in_place:
            self.index = torch.arange(_prod(self.origin)).reshape(self.origin)
        return self.index


class Recorder(TorchFunctionMode):
    """Sees every torch function of the pass, at the level at which modules call them."""

    def __init__(self, model: nn.Module, modules: list[str]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._modules = modules
        self._names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(name)
        self._by_path = dict(model.named_modules())
        self._states: Any = WeakTensorKeyDictionary()  # tensors come and go as in any pass
        self._scores: Any = WeakTensorKeyDictionary()

    def state(self, tensor: Tensor) -> _State | None:
        found: _State | None = self._states.get(tensor)
        return found

    def mark(
        self, tensor: Tensor, sources: frozenset[int], *, by_hand: tuple[Pad, ...] = (), mode: str = "constant"
    ) -> None:
        """Note a tensor that lies on a grid."""
        state = _fresh(tensor, sources)
        state.by_hand, state.by_hand_mode = by_hand, mode
        self._states[tensor] = state

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [a for a in _tensors([args, kwargs]) if self.state(a) is not None]
        if tensors:
            self._note(func, args, kwargs, result, tensors)
        return result

    def _note(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, tensors: list[Tensor]
    ) -> None:
        sources = self._sources(tensors)
        x = args[0] if args and isinstance(args[0], Tensor) else tensors[0]
        if func in _CONVS or func in _TRANSPOSED:
            dims = _CONVS.get(func) or _TRANSPOSED[func]
            kind = "conv" if func in _CONVS else "conv-transpose"
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            given = self.state(x)
            hand = (
                {"by_hand": given.by_hand, "by_hand_mode": given.by_hand_mode, "inside": given.inside} if given else {}
            )
            self._add(kind, sources, x, result, dims, weight=self._name(weight), kernel=tuple(weight.shape[2:]), **hand)
        elif (dims := _MAX_POOLS.get(func) or 0) or (dims := _AVG_POOLS.get(func) or 0):
            given = self.state(x)
            hand = {"by_hand": given.by_hand} if given else {}
            self._add("max-pool" if func in _MAX_POOLS else "avg-pool", sources, x, result, dims, **hand)
        elif dims := _ADAPTIVE_POOLS.get(func) or 0:
            self._add("adaptive-pool", sources, x, result, dims, fixed=True)
        elif func is _F.interpolate:
            fixed = kwargs.get("size") is not None or (len(args) > 1 and args[1] is not None)
            self._add("upsample", sources, x, result, x.ndim - 2, fixed=fixed)
        elif func is _F.linear and self._reads_grid(x):
            self._add_linear(args, kwargs, sources, x)
        elif func in _ATTENTION or (getattr(func, "__name__", "") == "softmax" and x in self._scores):
            self._add("attention", sources, x, result, 0, keys=_keys(func, args, kwargs, x))
        elif (found := self._positions(func, args)) is not None:
            name, known = found
            call = Call(
                len(self.calls) + 1, "positions", self._module(), sources, weight=name, size=known.tokens,
                out_size=known.tokens, prefix=known.prefix,
            )  # fmt: skip
            self.calls.append(call)
            self._pass_on(func, args, kwargs, result, tensors)
        elif getattr(func, "__name__", "") in ("cat", "concat") and self._with_prefix(args, kwargs, result):
            pass
        elif func is _F.pad and not self._pads_by_mode() and (given := self.state(x)) is not None and given.in_place:
            pads = args[1] if len(args) > 1 else kwargs["pad"]
            mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
            by_axis = tuple((int(pads[i]), int(pads[i + 1])) for i in range(len(pads) - 2, -1, -2))
            for out in _tensors(result):
                self.mark(out, sources, by_hand=by_axis, mode=mode)
                padded = self.state(out)
                assert padded is not None
                padded.inside = isinstance(self._by_path.get(self._module()), nn.modules.conv._ConvNd)
        else:
            self._pass_on(func, args, kwargs, result, tensors)

    def _pass_on(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, tensors: list[Tensor]
    ) -> None:
        """What other functions do: carry the sources on, and the places of elements where those are known."""
        sources = self._sources(tensors)
        outputs = list(_tensors(result))
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS or (name in _SCALED and any(t in self._scores for t in tensors)):
            for out in outputs:
                self._scores[out] = True
        moved = self._moved(func, args, kwargs, outputs)
        for position, out in enumerate(outputs):
            state = _State(sources)
            like = next((t for t in tensors if t.shape == out.shape), None)
            given = self.state(tensors[0])
            assert given is not None
            if moved is not None:
                state.origin, state.index = given.origin, moved[position]
                state.tokens = _tokens(state)
            elif like is not None and (known := self.state(like)) is not None:
                state.origin, state.index, state.in_place = known.origin, known.index, known.in_place
                state.tokens, state.prefix = known.tokens, known.prefix
                state.by_hand, state.by_hand_mode, state.inside = known.by_hand, known.by_hand_mode, known.inside
            elif given.in_place and out.ndim == len(given.origin):
                if all(n == 1 for n in out.shape[2:]):
                    continue  # reduced to one pixel: no grid is left
                state = _fresh(out, sources)
            self._states[out] = state

    def _moved(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: list[Tensor]
    ) -> list[Tensor] | None:
        """Where the elements went: the same function on the index of its input."""
        if getattr(func, "__name__", "") not in _MOVES or not args or not isinstance(args[0], Tensor):
            return None
        state = self.state(args[0])
        index = state.places() if state is not None else None
        if index is None:
            return None
        indices = list(_tensors(func(index, *args[1:], **kwargs)))
        return indices if [i.shape for i in indices] == [o.shape for o in outputs] else None

    def _sources(self, tensors: list[Tensor]) -> frozenset[int]:
        found = (state.sources for t in tensors if (state := self.state(t)))
        return frozenset().union(*found)

    def _add(self, kind: str, sources: frozenset[int], x: Tensor, result: Any, dims: int, **more: Any) -> None:
        out = first_tensor(result)
        assert out is not None
        size = tuple(x.shape[x.ndim - dims :]) if dims else ()
        out_size = tuple(out.shape[out.ndim - dims :]) if dims else ()
        call = Call(len(self.calls) + 1, kind, self._module(), sources, size=size, out_size=out_size, **more)
        self.calls.append(call)
        if kind == "adaptive-pool" and all(n == 1 for n in out_size):
            return
        for each in _tensors(result):
            if dims:
                self.mark(each, frozenset({call.index}))
            else:
                self._states[each] = _State(sources)

    def _add_linear(self, args: Sequence[Any], kwargs: Mapping[str, Any], sources: frozenset[int], x: Tensor) -> None:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        state = self.state(x)
        grid, order = _flattened(state, x) if state else ((), "")
        self.calls.append(
            Call(
                len(self.calls) + 1,
                "linear",
                self._module(),
                sources,
                weight=self._name(weight),
                grid=grid,
                order=order,
            )
        )

    def _reads_grid(self, x: Tensor) -> bool:
        """Whether a row of a linear layer's input holds more than one pixel."""
        state = self.state(x)
        if state is None or len(state.origin) < 3 or (index := state.places()) is None:
            return False
        pixels = index % _prod(state.origin[2:])
        rows = pixels.reshape(-1, x.shape[-1])
        return bool((rows != rows[:, :1]).any())

    def _positions(self, func: Any, args: Sequence[Any]) -> tuple[str, _State] | None:
        """The name of a parameter that is added to every token, and the tokens."""
        if getattr(func, "__name__", "") not in _SUMS or len(args) < 2:
            return None
        for x, other in (args[:2], args[1::-1]):
            if isinstance(x, Tensor) and isinstance(other, Tensor) and (known := self.state(x)) and known.tokens:
                name = self._name(other)
                if name and other.ndim >= 2 and other.shape[-2:] == x.shape[-2:]:
                    return name, known
        return None

    def _with_prefix(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> bool:
        """Note tokens that were put in front of those of the image."""
        parts = args[0] if args else kwargs.get("tensors", ())
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        known = [self.state(p) for p in parts]
        last = known[-1] if known else None
        if last is None or not last.tokens or any(s is not None for s in known[:-1]) or dim not in (1, -2):
            return False
        ahead = sum(int(p.shape[1]) for p in parts[:-1])
        self._states[result] = _State(last.sources, tokens=last.tokens, prefix=last.prefix + ahead)
        return True

    def _name(self, parameter: Any) -> str:
        """The name of a parameter; of several, the one in the module that runs."""
        names = self._names.get(id(parameter), [])
        here = f"{self._module()}." if self._module() else ""
        return next((n for n in names if n.removeprefix(here).count(".") == 0 and n.startswith(here)), "") or (
            names[0] if names else ""
        )

    def _module(self) -> str:
        return self._modules[-1] if self._modules else ""

    def _pads_by_mode(self) -> bool:
        """Whether torch's own convolution pads just now, as its padding_mode says: no padding by hand."""
        module = self._by_path.get(self._module())
        return isinstance(module, nn.modules.conv._ConvNd) and module.padding_mode != "zeros"


def _keys(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], x: Tensor) -> int:
    """Tokens that each token looks at: the softmax runs over so many."""
    if func is _F.scaled_dot_product_attention:
        key = args[1] if len(args) > 1 else kwargs["key"]
        return int(key.shape[-2])
    if func is _F.multi_head_attention_forward:
        return int(args[1].shape[0])
    return int(x.shape[-1])


def _flattened(state: _State, x: Tensor) -> tuple[tuple[int, ...], str]:
    """The (C, *spatial) grid behind the last axis of `x`, and its order; empty where it is neither of the two."""
    index = state.places()
    if index is None or x.shape[-1] != _prod(state.origin[1:]):
        return (), ""
    row = index.reshape(-1, x.shape[-1])[0]
    row = row - row.min()
    plain = torch.arange(row.numel()).reshape(state.origin[1:])
    if torch.equal(row, plain.reshape(-1)):
        return state.origin[1:], "channels-first"
    if torch.equal(row, plain.movedim(0, -1).reshape(-1)):
        return state.origin[1:], "channels-last"
    return (), ""


def _fresh(tensor: Tensor, sources: frozenset[int]) -> _State:
    """A tensor in the layout (N, C, *spatial), each element in its own place."""
    if tensor.ndim < 3:
        return _State(sources)
    return _State(sources, origin=tuple(tensor.shape), in_place=True)


def _tokens(state: _State) -> tuple[int, ...]:
    """The grid along axis 1 of a tensor (N, tokens, C) that holds it row by row; empty where it does not."""
    index = state.index
    if index is None or index.ndim != 3 or len(state.origin) < 3:
        return ()
    grid = state.origin[2:]
    if index.shape[1] != _prod(grid) or index.shape[2] != state.origin[1]:
        return ()
    return grid if torch.equal(index[0, :, 0], torch.arange(_prod(grid))) else ()


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)
    elif hasattr(tree, "__dataclass_fields__"):
        for name in tree.__dataclass_fields__:
            yield from _tensors(getattr(tree, name))


def first_tensor(tree: Any) -> Tensor | None:
    """The first tensor in whatever a model returns."""
    return next(_tensors(tree), None)


def _prod(sizes: Sequence[int]) -> int:
    total = 1
    for n in sizes:
        total *= n
    return total
