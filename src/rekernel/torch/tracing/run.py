"""Trace a model: run it once on an example input and record each call that reads the image grid.

Scope: running a model without changing it. Not here: what is recorded of a call (see `tracing.recorder`), and what
becomes of a layer (see `torch.planning`).
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from ...planning.roles import gives_image
from ..running import out_of_memory, said_by
from .eval_mode import evaluating
from .layer_call import LayerCall
from .no_collections import without_collections
from .recorder import Recorder
from .shape_only import fake_tensors, on_meta, unchanged, worth_it
from .steps import StepLog
from .tensor_state import first_tensor, tensors_in


@dataclass
class Trace:
    """All calls of a pass, in order.

    size : pixels of the input image, one number per spatial axis; for a model whose input is a latent vector, those of
        its output image
    output : indices of the calls that the output of the model came from
    out_size : grid of the output
    out_shape : shape of the output; empty where the model gives none
    gives_image : whether the output is an image: it lies on a grid of more than one pixel
    results : grid of the last output of each module, by the path of the module
    latent : whether the input is a latent vector, so that the first grid is one that a linear layer writes
    log : the torch functions of the pass
    done : for the path of each module, the number of functions in `log` when it was done
    shape_only : whether the pass used fake tensors and computed nothing
    """

    calls: list[LayerCall] = field(default_factory=list)
    size: tuple[int, ...] = ()
    output: frozenset[int] = frozenset()
    out_size: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    gives_image: bool = False
    results: dict[str, tuple[int, ...]] = field(default_factory=dict)
    latent: bool = False
    log: StepLog = field(default_factory=StepLog, compare=False)
    done: dict[str, int] = field(default_factory=dict, compare=False)
    shape_only: bool = field(default=False, compare=False)


def image_of(values: Sequence[Any]) -> tuple[Tensor, tuple[int, ...]]:
    """The first tensor with a spatial axis, and its grid; (N, T) is taken for a signal of one channel.

    Raises
    ------
    RekernelError
        If no value is a tensor with a spatial axis.

    Examples
    --------
    >>> image_of([3, torch.zeros(2), torch.zeros(1, 3, 8, 9)])[1]
    (8, 9)
    """
    tensors = [v for v in values if isinstance(v, Tensor)]
    for least in (3, 2):
        for tensor in tensors:
            if tensor.ndim >= least:
                return tensor, tuple(tensor.shape[2:] if tensor.ndim > 2 else tensor.shape[1:])
    found = ", ".join(str(tuple(t.shape)) for t in tensors) or ", ".join(type(v).__name__ for v in values) or "nothing"
    raise RekernelError(
        f"example_input: no tensor with a spatial axis among {found}; pass an input of the trained size, "
        f"(N, C, *spatial), a tuple of arguments or a dict of keyword arguments"
    )


def trace(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *, shape_only: bool | None = None
) -> Trace:
    """Run `model` once on an example input and record what its layers see.

    Parameters
    ----------
    model : nn.Module
        The model. It is run in evaluation mode without gradients, and is not changed.
    args, kwargs
        The inputs. The first tensor with a spatial axis is the image; other tensors of its size lie on the same grid.
    shape_only : bool, optional
        Run the model with fake tensors, which have shapes only. By default this is done where it is faster, or where it
        is the only way (the meta device). If the code of the model reads values, the model is run again with values.

    Returns
    -------
    Trace
        The same with and without values.

    Raises
    ------
    RekernelError
        If the model does not run on this input.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(32, 5))
    >>> [(call.kind, call.weight, call.size) for call in trace(model, [torch.zeros(1, 1, 8, 8)]).calls]
    [('conv', '0.weight', (8, 8)), ('linear', '2.weight', ())]
    """
    kwargs = dict(kwargs or {})
    spatial = image_of([*args, *kwargs.values()])[1]
    held = [*model.parameters(), *model.buffers()]
    meta = on_meta([*held, *tensors_in([args, kwargs])])
    failing: list[str] = []
    if meta or (worth_it(held, spatial) if shape_only is None else shape_only):
        try:
            return _pass(model, args, kwargs, spatial, failing, shape_only=True)
        except Exception as error:  # the model's code reads values, or calls code outside torch
            if meta or shape_only:
                raise _does_not_run(model, failing, error) from error
    failing.clear()
    try:
        return _pass(model, args, kwargs, spatial, failing, shape_only=False)
    except Exception as error:  # the model may raise anything on this input
        if out_of_memory(error):
            raise
        raise _does_not_run(model, failing, error) from error


def _does_not_run(model: nn.Module, failing: Sequence[str], error: Exception) -> RekernelError:
    where = ""
    if failing and failing[0]:
        where = f", in {shown(failing[0])} ({type(model.get_submodule(failing[0])).__name__})"
    return RekernelError(f"{type(model).__name__}: does not run on the example input{where}: {said_by(error)}")


def _pass(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], spatial: tuple[int, ...], failing: list[str],
    *, shape_only: bool,
) -> Trace:  # fmt: skip
    """Run the model once and record it; raise what the model raises, with the innermost module first in `failing`."""
    modules: list[str] = []
    results: dict[str, tuple[int, ...]] = {}
    done: dict[str, int] = {}
    with ExitStack() as stack:
        stack.enter_context(unchanged(model))
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(without_collections())
        given = tensors_in([args, kwargs])
        fake = stack.enter_context(fake_tensors(model, given)) if shape_only else _as_it_is
        recorder = Recorder(model, modules)
        stack.enter_context(_following(model, modules, results, done, failing, recorder))

        def seen(value: Any) -> Any:
            """Mark a tensor on the grid of the image, and copy it, since the model may change its input."""
            value = fake(value)
            if not isinstance(value, Tensor) or value.ndim < 2:
                return value
            if tuple(value.shape[2:] if value.ndim > 2 else value.shape[1:]) != spatial:
                return value
            value = value.clone()
            recorder.begin(value)
            return value

        args, kwargs = [seen(a) for a in args], {k: seen(v) for k, v in kwargs.items()}
        with recorder:
            result = model(*args, **kwargs)
        out = first_tensor(result)
        state = recorder.state(out) if out is not None else None
        shape = tuple(out.shape) if out is not None else ()
        out_size = shape[2:]
        sources = state.sources if state else frozenset()
        image = image_of([*args, *kwargs.values()])[0]
    written = [call for call in recorder.calls if call.kind == "linear-out"]
    read = any(0 in call.sources for call in recorder.calls if call.kind not in ("linear-out", "other"))
    latent = image.ndim == 2 and bool(written) and not read
    size = (out_size or written[0].size) if latent else spatial
    grids = [call.out_size for call in recorder.calls if call.index in sources]
    # Code may put patches together so that nobody can follow them; an output of the image's own size is an image still.
    given_back = len(spatial) > 1 and out_size == spatial
    answers = out is not None and (bool(sources) or given_back) and (
        latent or (gives_image(out.shape, max(image.ndim, 3)) and not _tokens(out.shape, grids))
    )  # fmt: skip
    return Trace(
        recorder.calls, size, sources, out_size, shape, answers, results, latent, recorder.log, done, shape_only
    )


def _tokens(shape: Sequence[int], grids: Collection[tuple[int, ...]]) -> bool:
    """Whether a shape is that of tokens, (N, T, features), made from one of the grids; a signal is (N, C, T).

    Examples
    --------
    >>> _tokens((1, 12, 32), [(12,)]), _tokens((1, 32, 12), [(12,)])
    (True, False)
    """
    return len(shape) == 3 and tuple(shape[1:2]) in grids and tuple(shape[2:]) not in grids


def _as_it_is(value: Any) -> Any:
    return value


@contextmanager
def _following(
    model: nn.Module, path: list[str], results: dict[str, tuple[int, ...]], done: dict[str, int], failing: list[str],
    recorder: Recorder,
) -> Iterator[None]:  # fmt: skip
    """Keep in `path` the chain of modules that are running, in `results` the grids of their outputs, in `done` the
    number of functions that were recorded when each was done, and in `failing` the modules that an error leaves.
    """
    handles = []
    for name, module in model.named_modules():

        def enter(_m: nn.Module, _args: Any, name: str = name) -> None:
            path.append(name)

        def leave(_m: nn.Module, _args: Any, out: Any) -> None:
            name = path.pop()
            if out is None and sys.exc_info()[0] is not None:
                failing.append(name)
            done[name] = len(recorder.log.steps)
            if isinstance(out, Tensor):
                results[name] = tuple(out.shape[2:])

        # What hooks of a layer call belongs to the layer, but what hooks of the model call comes before the model.
        handles.append(module.register_forward_pre_hook(enter, prepend=bool(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
