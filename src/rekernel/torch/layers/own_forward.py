"""Find out what the forward method of a subclass of a convolution does, by running a copy of the layer on probes.

A subclass may pad its input and convolve it, and then a plain convolution can take its place. Or it computes another
weight first (weight standardisation, a mask, a scale), or does something more (a norm, an activation, a cache). A copy
of the layer with random weights is run on random inputs, and the result is compared with that of padding and
convolving.
Scope: one layer. Not here: the layer that takes its place (see `torch.layers.same_class`), and the calls of a traced
model (see `torch.planning.own_calls`).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from .padding import Sides, own_padding, pad_sides, tuple_of
from .probes import probe_size, probing, random_like
from .watched import Product, Watched

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSES = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FORWARDS = frozenset(kind.forward for kind in (*_CONVS, *_TRANSPOSES, nn.Linear))
_CONV_FORWARDS = frozenset(kind._conv_forward for kind in _CONVS)
_TORCH_ARGUMENTS = ("input", "output_size")
_MODES = ("zeros", "reflect", "replicate", "circular")
_CLOSE = 1e-4
OWN = "its forward method is its own, and "
"""Start of the reasons why a forward method cannot be rescaled."""


class Unclear(Exception):  # noqa: N818 - not an error: it ends an examination
    """The forward method does something that is neither padding nor one convolution."""


@dataclass(frozen=True)
class OwnForward:
    """What a forward method does.

    does : 'convolves' (it pads and convolves by the weight of the layer), 'computes' (it pads and convolves by a weight
        that it computes), 'more' (it does more with the convolution by that weight), or 'unclear'
    takes_more : whether it has arguments beside the image
    holds_more : whether its state dict holds tensors that a plain convolution would lose
    pads : padding that the method adds to the layer's own, (left, right) per spatial axis; negative where it takes
        pixels away; empty where it is not known
    mode : mode of the padding, the layer's own included, as in `padding_mode` of a convolution
    grows : pixels by which the input of the convolution is larger than that of the layer, per spatial axis
    crops : pixels by which the result of the layer is smaller than that of the convolution, per spatial axis
    prepares : for 'more', whether the convolution reads what the method made of the image
    why : for 'unclear', what was seen
    """

    does: Literal["convolves", "computes", "more", "unclear"]
    takes_more: bool = False
    holds_more: bool = False
    pads: Sides = ()
    mode: str = "zeros"
    grows: tuple[int, ...] = ()
    crops: tuple[int, ...] = ()
    prepares: bool = False
    why: str = ""

    @property
    def replaced(self) -> bool:
        """Whether a plain convolution takes the place of the layer, and does all the padding."""
        return self.does in ("convolves", "computes") and not self.takes_more and not self.holds_more


def has_own_forward(layer: nn.Module) -> bool:
    """Whether a convolution or linear layer has another forward method than those of torch.

    Examples
    --------
    >>> has_own_forward(nn.Conv2d(1, 1, 3))
    False
    """
    kind: Any = type(layer)
    if kind.forward not in _FORWARDS or kind.__call__ is not nn.Module.__call__:
        return True
    return isinstance(layer, _CONVS) and kind._conv_forward not in _CONV_FORWARDS


def examined(layer: Any, size: Sequence[int] = ()) -> OwnForward:
    """What the forward method of a convolution does. The layer is not changed, and may be on the meta device.

    Parameters
    ----------
    layer : nn.Module
        A convolution with a forward method of its own.
    size : sequence of int, optional
        Pixels of its input, on which the padding may depend.

    Examples
    --------
    >>> class Causal(nn.Conv1d):
    ...     def forward(self, x):
    ...         return super().forward(x)[..., : -self.padding[0]]
    >>> examined(Causal(2, 4, 3, padding=2)).pads
    ((0, -2),)
    """
    try:
        with probing(layer) as probe:
            shape = (1, layer.in_channels, *probe_size(layer, size))
            first, second = _run(probe, shape, 1), _run(probe, shape, 2)
            if not first.computed and not _alike(first.out, _run(probe, shape, 1).out):
                raise Unclear("its result depends on what it was given before")
        if first.computed or second.computed:  # a fresh copy: the method may have changed the weight in place
            with probing(layer) as probe:
                if not torch.equal(_run(probe, shape, 2).call.value, first.call.value):
                    raise Unclear("its weight depends on the image")
        return _compared(layer, first, second)
    except Unclear as unclear:
        return OwnForward("unclear", why=f"{OWN}{unclear}")
    except Exception as error:  # the code of a layer may raise anything
        return OwnForward("unclear", why=f"{OWN}it does not run on a random image alone ({type(error).__name__})")


def computed_weight(layer: Any) -> tuple[Tensor, Tensor | None]:
    """The weight and the bias by which a layer convolves that 'computes' them. On the meta device they are empty.

    Examples
    --------
    >>> class Halved(nn.Conv1d):
    ...     def forward(self, x):
    ...         return self._conv_forward(x, self.weight / 2, self.bias)
    >>> layer = Halved(1, 1, 3)
    >>> torch.equal(computed_weight(layer)[0], layer.weight / 2)
    True
    """
    with probing(layer, values=True) as probe:
        call = _run(probe, (1, layer.in_channels, *probe_size(layer)), 1).call
    target = layer.weight
    made = [None if t is None else t.detach().to(target.device, target.dtype) for t in (call.value, call.bias)]
    assert made[0] is not None
    return made[0], made[1]


def multiplies_alone(layer: Any) -> bool:
    """Whether the forward method of a linear layer multiplies by its weight and adds its bias, and does nothing else.

    Examples
    --------
    >>> multiplies_alone(nn.Linear(4, 2))
    True
    """
    if not _takes_the_image_alone(layer) or not set(layer.state_dict()) <= {"weight", "bias"}:
        return False
    try:
        with probing(layer) as probe:
            x = random_like((2, layer.in_features), probe.weight.dtype, 1)
            return close(forward(probe, x.clone()), nn.functional.linear(x, probe.weight, probe.bias))
    except Exception:  # the code of a layer may raise anything
        return False


def cannot_keep(weight: str, layer: nn.Module, why: str = "") -> RekernelError:
    """The error for a layer that neither a plain one can replace nor one of its class."""
    why = why or f"{OWN}it does more than pad and convolve, and not with the geometry of its attributes alone"
    return RekernelError(
        f"{shown(weight)}: this {type(layer).__name__} cannot be rescaled: {why}. "
        f"Leave the layer out with exclude=['{shown(weight)}']; with mode='absorb' nothing is lost then, since a layer "
        f"that reads the image and is left out gets it at the trained size"
    )


@dataclass(frozen=True)
class _Run:
    """One probe: the image, the result, the one convolution, and whether its weight is not the layer's own."""

    x: Tensor
    out: Any
    call: Product
    computed: bool


def forward(layer: nn.Module, *args: Any) -> Any:
    """Call the forward method of a layer, without its hooks."""
    return type(layer).forward(layer, *args)


def _run(probe: Any, shape: Sequence[int], seed: int) -> _Run:
    x = random_like(shape, probe.weight.dtype, seed) * seed
    parameter, before = probe.weight, probe.weight.detach().clone()
    with Watched() as watched:
        out = forward(probe, x.clone())
    calls = [call for call in watched.calls if call.stride]
    if len(calls) != 1:
        raise Unclear(f"it calls {len(calls) or 'no'} convolution{'s' if calls else ''} of torch, not one")
    own = calls[0].weight is parameter and torch.equal(calls[0].value, before)
    return _Run(x, out, calls[0], not own)


def _compared(layer: Any, first: _Run, second: _Run) -> OwnForward:
    call = first.call
    dims = len(layer.kernel_size)
    shown = tuple(tuple_of(getattr(layer, what), dims) for what in ("stride", "dilation"))
    if (call.stride, call.dilation) != shown or (call.groups, call.transposed) != (layer.groups, layer.transposed):
        raise Unclear("it convolves with another stride, dilation or groups than the layer shows")
    if call.transposed and call.output_padding != tuple(layer.output_padding):
        raise Unclear("it convolves with another output padding than the layer shows")
    computes = first.computed or second.computed
    if call.value.shape != layer.weight.shape:
        raise Unclear("it convolves by a weight of another shape than that of the layer")
    takes_more = not _takes_the_image_alone(layer)
    if computes and takes_more:
        raise Unclear("it computes its weight, and takes more arguments than the image")
    holds_more = not computes and not set(layer.state_dict()) <= {"weight", "bias"}
    grows = tuple(a - b for a, b in zip(call.x.shape[2:], first.x.shape[2:], strict=True))
    total, again = _total_padding(first), _total_padding(second)
    own = own_padding(layer)
    if total is None or again is None or total[:2] != again[:2]:
        if computes:
            raise Unclear("it computes its weight and does more than convolve")
        pads = _pads_before(layer, first, grows)
        read = any(next(paddings(call.x, first.x, mode), None) is not None for mode in {"zeros", layer.padding_mode})
        return OwnForward("more", takes_more, holds_more, pads, grows=grows, prepares=not read)
    sides, mode, crops = total
    does: Literal["computes", "convolves"] = "computes" if computes else "convolves"
    return OwnForward(does, takes_more, holds_more, _differences(sides, own), mode, grows, crops)


def _pads_before(layer: Any, run: _Run, grows: Sequence[int]) -> Sides:
    """What a forward method that does more adds to the layer's own padding; empty where it pads another tensor."""
    own = own_padding(layer)
    added = next(paddings(run.call.x, run.x), None)
    if added is not None:
        return _differences(_sums(added, run.call.sides), own)
    by_mode = layer.padding_mode != "zeros" and not any(map(any, run.call.sides))  # torch has padded already
    expected = tuple(sum(pair) if by_mode else 0 for pair in own)
    if tuple(grows) != expected:
        return ()
    return ((0, 0),) * len(own) if by_mode else _differences(run.call.sides, own)


def _takes_the_image_alone(layer: nn.Module) -> bool:
    """Whether a forward method has no argument that torch's does not have: a model may pass it."""
    first, *others = inspect.signature(type(layer).forward).parameters.values()
    if first.name == "self":
        first, *others = others or [first]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return first.kind not in several and all(p.name in _TORCH_ARGUMENTS for p in others)


def _total_padding(run: _Run) -> tuple[Sides, str, tuple[int, ...]] | None:
    """The sides and the mode of padding that gives the result of a probe by padding and convolving alone; and crops.

    None where there is no such padding.
    """
    call = run.call
    whole = call.run(call.x)
    if not isinstance(run.out, Tensor) or run.out.shape[:2] != whole.shape[:2]:
        return None
    cuts = next(_crops(whole, run.out), None)
    if cuts is None or (call.transposed and (any(map(any, cuts)) or call.x.shape != run.x.shape)):
        return None
    by_stride = tuple((left * t, right * t) for (left, right), t in zip(cuts, call.stride, strict=True))
    crops = tuple(left + right for left, right in cuts)
    inside = any(map(any, call.sides))
    for mode in _MODES:
        added = next(paddings(call.x, run.x, mode), None)
        if added is not None and not (inside and mode != "zeros" and any(map(any, added))):
            return _differences(_sums(added, call.sides), by_stride), mode, crops
    return None


def paddings(padded: Tensor, x: Tensor, mode: str = "zeros") -> Iterator[Sides]:
    """All paddings of `x` in a mode that give `padded`; negative sides take pixels away.

    Examples
    --------
    >>> list(paddings(torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[[1.0, 2.0]]])))
    [((1, 0),)]
    """
    differences = [a - b for a, b in zip(padded.shape[2:], x.shape[2:], strict=True)]
    copies = mode != "zeros"  # these modes copy pixels of the image, so they cannot add more than there are
    if padded.shape[:2] != x.shape[:2] or (copies and (min(differences) < 0 or not any(differences))):
        return
    for lefts in itertools.product(*(range(min(0, d), max(0, d) + 1) for d in differences)):
        sides = tuple((left, d - left) for left, d in zip(lefts, differences, strict=True))
        fits = all(max(pair) < n for pair, n in zip(sides, x.shape[2:], strict=True)) or not copies
        if fits and close(pad_sides(x, sides, mode), padded):
            yield sides


def _crops(whole: Tensor, part: Tensor) -> Iterator[Sides]:
    """All ways to take pixels from the sides of `whole` that give `part`."""
    differences = [a - b for a, b in zip(whole.shape[2:], part.shape[2:], strict=True)]
    if min(differences) < 0:
        return
    for lefts in itertools.product(*(range(d + 1) for d in differences)):
        sides = tuple((left, d - left) for left, d in zip(lefts, differences, strict=True))
        if close(pad_sides(whole, [(-left, -right) for left, right in sides]), part):
            yield sides


def close(one: Any, other: Any) -> bool:
    """Whether two tensors are the same up to rounding.

    Examples
    --------
    >>> close(torch.ones(2), torch.ones(2) + 1e-7), close(torch.ones(2), torch.ones(3))
    (True, False)
    """
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).norm() <= _CLOSE * other.norm().clamp_min(1e-30))


def _alike(one: Any, other: Any) -> bool:
    """Whether two results are the same; what is not a tensor is taken to be."""
    return not isinstance(one, Tensor) or close(one, other)


def _sums(one: Sides, other: Sides) -> Sides:
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(one, other, strict=True))


def _differences(one: Sides, other: Sides) -> Sides:
    return tuple((a - c, b - d) for (a, b), (c, d) in zip(one, other, strict=True))
