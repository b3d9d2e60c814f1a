"""What a pass does, call by call: which tensors lie on the image grid, and where their elements went.

Knows torch's functions; no scale, method or plan. `trace` runs the pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers.padding import own_padding
from .shape_only import computing, is_fake
from .tensor_state import (
    Pad,
    State,
    first_tensor,
    flattened,
    fresh,
    moved_tokens,
    several_pixels,
    strides_of,
    tensors_in,
    unflattened,
)

_CONVS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_F = nn.functional
_MAX_POOLS = {
    _F.max_pool1d: 1, _F.max_pool2d: 2, _F.max_pool3d: 3,
    torch.max_pool1d: 1, torch.max_pool2d: 2, torch.max_pool3d: 3,
    _F.max_pool1d_with_indices: 1, _F.max_pool2d_with_indices: 2, _F.max_pool3d_with_indices: 3,
}  # fmt: skip
_AVG_POOLS = {_F.avg_pool1d: 1, _F.avg_pool2d: 2, _F.avg_pool3d: 3}
_ADAPTIVE_POOLS = {
    _F.adaptive_avg_pool1d: 1, _F.adaptive_avg_pool2d: 2, _F.adaptive_avg_pool3d: 3,
    _F.adaptive_max_pool1d: 1, _F.adaptive_max_pool2d: 2, _F.adaptive_max_pool3d: 3,
}  # fmt: skip
# Functions that tell pixels apart by their number, so that they mean something else on a finer grid.
_BY_PIXEL = {
    _F.lp_pool1d: "L-p pooling", _F.lp_pool2d: "L-p pooling", _F.lp_pool3d: "L-p pooling",
    _F.fractional_max_pool2d: "fractional pooling", _F.fractional_max_pool3d: "fractional pooling",
    _F.fractional_max_pool2d_with_indices: "fractional pooling",
    _F.fractional_max_pool3d_with_indices: "fractional pooling",
    _F.max_unpool1d: "unpooling", _F.max_unpool2d: "unpooling", _F.max_unpool3d: "unpooling",
    _F.pixel_shuffle: "pixel shuffle", _F.pixel_unshuffle: "pixel unshuffle",
    _F.unfold: "unfold", _F.fold: "fold",
}  # fmt: skip
_NORMS = {_F.batch_norm, _F.layer_norm, _F.group_norm, _F.instance_norm}
_ATTENTION = {_F.scaled_dot_product_attention, _F.multi_head_attention_forward}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "__matmul__"}
# What may happen to the scores of an attention between the product and the softmax.
_SCALED = {
    "mul", "__mul__", "__rmul__", "mul_", "div", "__truediv__", "div_", "add", "__add__", "__radd__", "add_",
    "__iadd__", "sub", "__sub__", "sub_", "masked_fill", "masked_fill_", "where", "clamp", "tanh", "float", "to",
    "type_as", "view", "reshape", "unsqueeze", "squeeze", "contiguous", "unflatten", "flatten",
}  # fmt: skip
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
    kind : 'conv', 'conv-transpose', 'max-pool', 'avg-pool', 'adaptive-pool', 'upsample', 'linear', 'linear-out',
        'attention', 'positions', 'by-pixel'
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
    grid, order : of a linear layer that reads or writes a flattened grid: (C, *spatial), 'channels-first' or
        'channels-last'
    fixed : the output size is a number in the call, not a ratio
    what : of 'by-pixel', the function; of 'linear-out', the nn.Unflatten behind it, if it is one
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
    what: str = ""


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

    def state(self, tensor: Tensor) -> State | None:
        found: State | None = self._states.get(tensor)
        return found

    def mark(
        self, tensor: Tensor, sources: frozenset[int], *, by_hand: tuple[Pad, ...] = (), mode: str = "constant"
    ) -> None:
        """Note a tensor that lies on a grid."""
        state = fresh(tensor, sources)
        state.by_hand, state.by_hand_mode = by_hand, mode
        self._states[tensor] = state

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [a for a in tensors_in([args, kwargs]) if self.state(a) is not None]
        if tensors or (func is _F.linear and args and args[0].ndim == 2):
            with computing():  # places of pixels are real numbers, whatever the tensors of the pass are
                self._note(func, args, kwargs, result, tensors)
        return result

    def _note(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, tensors: list[Tensor]
    ) -> None:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        x = first if first is not None else next(tensors_in([args, kwargs]))
        if self._reads_image(func, x):
            self._begin_grid(x)
        sources = self._sources(tensors)
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
        elif func in _BY_PIXEL or self._skips_pixels(func, args):
            what = _BY_PIXEL.get(func, "a step over pixels")
            self.calls.append(Call(len(self.calls) + 1, "by-pixel", self._module(), sources, what=what))
            self._pass_on(func, args, kwargs, result, tensors)
        elif func is _F.linear and several_pixels(self.state(x), x):
            self._add_linear(args, kwargs, result, sources, x)
        elif func is _F.linear and x.ndim == 2:
            self._features(args, kwargs, result, sources)
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
            for out in tensors_in(result):
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
        outputs = list(tensors_in(result))
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS or (name in _SCALED and any(t in self._scores for t in tensors)):
            for out in outputs:
                self._scores[out] = True
        moved = self._moved(func, args, kwargs, outputs)
        for position, out in enumerate(outputs):
            state = State(sources)
            # Of a sum, the side whose places are known tells those of the result.
            alike = [t for t in tensors if t.shape == out.shape]
            like = next((t for t in alike if (s := self.state(t)) and s.origin), alike[0] if alike else None)
            given = self.state(tensors[0])
            assert given is not None
            if moved is not None:
                state.origin, state.index = given.origin, moved[position]
                state.rows = given.rows
                unflattens = isinstance(self._by_path.get(self._module()), nn.Unflatten)
                state.reshaped = self._module() if unflattens and given.in_place else given.reshaped
                state.tokens = moved_tokens(state)
            elif like is not None and (known := self.state(like)) is not None:
                state = replace(known, sources=sources)
                if func in _NORMS and out.ndim == 2:
                    state.in_place, state.index = False, known.places()  # one weight for each feature
            elif given.in_place and out.ndim == len(given.origin):
                if all(n == 1 for n in out.shape[2:]):
                    continue  # reduced to one pixel: no grid is left
                state = fresh(out, sources)
            if sources or state.rows:
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
        if any(is_fake(t) for t in tensors_in([args[1:], kwargs])):
            raise RuntimeError("values that are not there decide where pixels go")  # `trace` passes again, with values
        indices = list(tensors_in(func(index, *args[1:], **kwargs)))
        return indices if [i.shape for i in indices] == [o.shape for o in outputs] else None

    def _sources(self, tensors: list[Tensor]) -> frozenset[int]:
        found = (state.sources for t in tensors if (state := self.state(t)))
        return frozenset().union(*found)

    def _add(self, kind: str, sources: frozenset[int], x: Tensor, result: Any, dims: int, **more: Any) -> None:
        out = first_tensor(result)
        assert out is not None
        size = tuple(x.shape[x.ndim - dims :]) if dims else ()
        out_size = tuple(out.shape[out.ndim - dims :]) if dims else ()
        if kind == "conv" and self._pads_by_mode():  # torch has padded already: the grid is what was there before
            own = own_padding(self._by_path[self._module()])
            size = tuple(n - left - right for n, (left, right) in zip(size, own, strict=True))
        call = Call(len(self.calls) + 1, kind, self._module(), sources, size=size, out_size=out_size, **more)
        self.calls.append(call)
        if kind == "adaptive-pool" and all(n == 1 for n in out_size):
            return
        for each in tensors_in(result):
            if dims:
                self.mark(each, frozenset({call.index}))
            else:
                self._states[each] = State(sources)

    def _add_linear(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, sources: frozenset[int], x: Tensor
    ) -> None:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        grid, order = flattened(self.state(x), x)
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
        if x.ndim == 2:
            self._features(args, kwargs, result, frozenset())

    def _skips_pixels(self, func: Any, args: Sequence[Any]) -> bool:
        """Whether an index takes every second pixel; every second channel is no matter."""
        if getattr(func, "__name__", "") != "__getitem__" or not strides_of(args[1]):
            return False
        state = self.state(args[0])
        if state is None or len(state.origin) < 3 or (index := state.places()) is None:
            return False
        pixels = math.prod(state.origin[2:])
        before, after = index % pixels, index[args[1]] % pixels
        return bool(torch.unique(after).numel() < torch.unique(before).numel())

    def _features(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, sources: frozenset[int]) -> None:
        """Note the outputs of a linear layer on (N, F): they may turn out to be the pixels of a new grid."""
        name = self._name(args[1] if len(args) > 1 else kwargs["weight"])
        self._states[result] = State(sources, origin=tuple(result.shape), in_place=True, rows=name)

    def _reads_image(self, func: Any, x: Tensor) -> bool:
        """Whether a function takes `x` for (N, C, *spatial)."""
        readers = (_CONVS, _TRANSPOSED, _MAX_POOLS, _AVG_POOLS, _ADAPTIVE_POOLS, _BY_PIXEL)
        if func is _F.pad or func is _F.interpolate or any(func in known for known in readers):
            return x.ndim >= 3
        return getattr(func, "__name__", "") in ("cat", "concat") and x.ndim >= 4

    def _begin_grid(self, x: Tensor) -> None:
        """Where the features of a linear layer are read as pixels, that layer wrote an image."""
        state = self.state(x)
        if state is None or not state.rows or x.shape[0] != state.origin[0] or math.prod(x.shape[2:]) == 1:
            return
        grid, order = unflattened(state, x)
        call = Call(
            len(self.calls) + 1, "linear-out", self._module(), state.sources, weight=state.rows, size=grid[1:],
            out_size=grid[1:], grid=grid, order=order, what=state.reshaped,
        )  # fmt: skip
        self.calls.append(call)
        self.mark(x, frozenset({call.index}))

    def _positions(self, func: Any, args: Sequence[Any]) -> tuple[str, State] | None:
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
        if last is None or not last.tokens or dim not in (1, -2) or any(s and s.sources for s in known[:-1]):
            return False
        ahead = sum(int(p.shape[1]) for p in parts[:-1])
        self._states[result] = State(last.sources, tokens=last.tokens, prefix=last.prefix + ahead)
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
