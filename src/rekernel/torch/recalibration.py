"""Re-estimate the statistics of batch norm from unlabelled images, and put the old statistics back on request.

Scope: means and variances of batch norm layers. Not here: weights (see `torch.rescaling`), and errors of a rescaled
network (see `torch.measure`).

A batch norm layer normalises its input with the mean and the variance that it saw in training. Larger images have
detail that was averaged away in the small ones, so the features of a rescaled network have other variances. The new
statistics are those of all values together (ours to the extent that the pass leaves the model in evaluation mode;
pooling over batches is that of "Rethinking Batch in BatchNorm", arXiv 2105.07576).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from ..errors import RekernelError
from ..escape import shown
from ..patterns import listed, matcher
from ..plan.plan import Plan
from ..resampling.geometry import new_size
from ..text import dims, few
from .checked_arguments import check_module
from .editing.apply import PLAN
from .running import Forward, call_with, more_inputs, said_by
from .surroundings import own_precision
from .tracing.eval_mode import evaluating
from .tracing.tensor_state import tensors_in

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

Saved = list[tuple[_BatchNorm, str, Tensor]]


class Recalibration:
    """What `recalibrate` did to a model; as a context manager it puts the old statistics back at the end of the block.

    layers : names of the batch norm layers that have new statistics
    unused : names of those that no batch reached; they keep their statistics
    batches : number of batches that the new statistics come from
    """

    def __init__(self, layers: tuple[str, ...], unused: tuple[str, ...], batches: int, before: Saved) -> None:
        self.layers, self.unused, self.batches = layers, unused, batches
        self._before = before

    def restore(self) -> None:
        """Put back the statistics that the layers had before `recalibrate`."""
        _put(self._before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def __repr__(self) -> str:
        unused = f", {len(self.unused)} not reached" if self.unused else ""
        layers = f"{len(self.layers)} layer{'' if len(self.layers) == 1 else 's'}"
        return f"<Recalibration of {layers} from {self.batches} batch{'' if self.batches == 1 else 'es'}{unused}>"


class _Moments:
    """Mean and variance of each channel over all values of all batches, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64, device="cpu")

    def add(self, x: Tensor) -> None:
        """Add a batch (N, C, *spatial)."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        exact = x if x.dtype == torch.float64 else x.float()
        var, mean = (m.cpu().double() for m in torch.var_mean(exact, axes, correction=0))
        count = x.numel() // x.shape[1]
        apart, total = mean - self.mean, self.count + count
        self.mean = self.mean + apart * (count / total)
        self.squares = self.squares + var * count + apart.square() * (self.count * count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, which is what torch keeps in `running_var`."""
        return self.squares / (self.count - 1)


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    exclude: Sequence[str] = (),
    forward: Forward | None = None,
) -> Recalibration:
    """Re-estimate the statistics of every batch norm layer from images of the new size. No labels are needed.

    The model changes in place, and in nothing but `running_mean` and `running_var` of these layers. Their new values
    are the mean and the unbiased variance of *all* values that a layer sees in all batches together, so batches may
    have different sizes. In the pass each of these layers normalises with the statistics of its batch, so that the
    layers after it see inputs of the new scale; all other layers (dropout, stochastic depth) are in evaluation mode.
    Small batches make this coarse: pass as many images at once as memory allows, and shuffle sorted images.

    Parameters
    ----------
    model : nn.Module
        The rescaled network, or any other.
    batches : iterable
        As a DataLoader gives them. The image is the first floating-point tensor in a batch: the batch itself, or the
        first one in a tuple, list or dict (so labels, which are integers, may stand anywhere). It is moved to the
        device and the dtype of the model. A single tensor (N, C, *spatial) or dict is one batch.
    exclude : patterns, optional
        Names of layers that keep their statistics, as globs ("backbone.*") or 're:' and a regular expression.
    forward : callable, optional
        How to run the model on a batch, `forward(model, batch)`, for models that take something else than one image.
        The batch is then passed as it comes.

    Returns
    -------
    Recalibration
        Its `restore()` puts the old statistics back; `with recalibrate(...):` does so at the end of the block.

    Raises
    ------
    RekernelError
        If there is no batch norm layer or no batch, if the model does not run, if a layer cannot be re-estimated (it
        keeps no statistics, or is a frozen batch norm of another class), or if new statistics are not finite. The model
        is then as it was, as it is after any other exception.

    Examples
    --------
    >>> from rekernel.torch import rescale
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> larger = rescale(model, 2, torch.zeros(1, 1, 8, 8))
    >>> done = recalibrate(larger, [torch.rand(16, 1, 16, 16), torch.rand(8, 1, 16, 16)])
    >>> done
    <Recalibration of 1 layer from 2 batches>
    >>> done.restore()
    >>> torch.equal(larger[1].running_mean, model[1].running_mean)
    True
    """
    check_module(model)
    norms = _norms(model, exclude)
    moments = {name: _Moments() for name in norms}
    before: Saved = [
        (norm, leaf, value.clone())
        for norm in norms.values()
        for leaf in _STATISTICS
        if (value := getattr(norm, leaf)) is not None
    ]
    number = 0
    try:
        with own_precision(), _noting(model, norms, moments), torch.no_grad():
            for number, batch in enumerate([batches] if isinstance(batches, Tensor | Mapping) else batches, start=1):
                _run(model, batch, number, forward)
        unused = tuple(name for name in norms if not moments[name].count)
        if not number:
            raise RekernelError("batches: is empty, so there is nothing to take statistics from; pass some images")
        if len(unused) == len(norms):
            raise RekernelError(
                f"{type(model).__name__}: ran, but none of its batch norm layers ({_listed(unused)}) was called; pass "
                f"the module itself, as it was before torch.compile"
            )
        _put(_measured(norms, moments))
    except BaseException:
        _put(before)
        raise
    return Recalibration(tuple(name for name in norms if name not in unused), unused, number, before)


def _norms(model: nn.Module, exclude: Sequence[str]) -> dict[str, _BatchNorm]:
    """The layers to re-estimate by name; raise for one that cannot be."""
    modules = dict(model.named_modules())
    known = [n for n, m in modules.items() if isinstance(m, _BatchNorm) or _keeps_statistics(m)]
    left_out: set[str] = set()
    for pattern in listed(exclude, "exclude"):
        found = set(filter(matcher(pattern), known))
        if not found:
            near = f"; they are {_listed(known)}" if known else ""
            raise RekernelError(f"exclude: pattern {shown(pattern)} matches no batch norm layer{near}")
        left_out |= found
    chosen: dict[str, _BatchNorm] = {}
    for name in known:
        module = modules[name]
        what = f"{shown(name)} ({type(module).__name__})" if name else type(module).__name__
        if name in left_out:
            continue
        if not isinstance(module, _BatchNorm):
            raise RekernelError(
                f"{what}: keeps statistics but is not a batch norm layer of torch, so they cannot be re-estimated; "
                f"pass exclude=[{shown(name)!r}] to keep them, or put an nn.BatchNorm2d with the same tensors in the "
                f"place of a frozen one"
            )
        if module.running_mean is None or module.running_var is None:
            raise RekernelError(
                f"{what}: has track_running_stats=False, so it normalises each batch by itself and has no statistics "
                f"to re-estimate; pass exclude=[{shown(name)!r}]"
            )
        if is_lazy(module.running_mean) or module.running_mean.device.type == "meta":
            raise RekernelError(f"{what}: has no values yet; run the model once, or load its weights, first")
        chosen[name] = module
    if not chosen:
        every = " that is not excluded" if left_out else ""
        raise RekernelError(
            f"{type(model).__name__}: has no batch norm layer{every} (BatchNorm1d, 2d, 3d or SyncBatchNorm), so there "
            f"are no statistics to re-estimate; leave this step out"
        )
    return chosen


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a module that is not a batch norm of torch keeps statistics, as frozen batch norms do."""
    return all(isinstance(getattr(module, leaf, None), Tensor) for leaf in _STATISTICS[:2])


@contextmanager
def _noting(model: nn.Module, norms: dict[str, _BatchNorm], moments: dict[str, _Moments]) -> Iterator[None]:
    """Let each norm use the statistics of its batch without storing them, and add its input to its moments."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name, norm in norms.items():

            def note(_module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                x = tensors_in([args, kwargs])[0]
                if x.numel() < 2 * x.shape[1]:
                    raise RekernelError(
                        f"{shown(name) if name else 'the batch norm layer'}: sees {tuple(x.shape)}, a single value of "
                        f"each channel, which has no variance; pass batches of more images"
                    )
                moments[name].add(x)

            stack.callback(norm.register_forward_pre_hook(note, with_kwargs=True).remove)
            stack.callback(setattr, norm, "track_running_stats", norm.track_running_stats)
            norm.training, norm.track_running_stats = True, False
        yield


def _run(model: nn.Module, batch: Any, number: int, forward: Forward | None) -> None:
    """Run the model on a batch."""
    image = next((t for t in tensors_in(batch) if t.is_floating_point()), None)
    if image is None and forward is None:
        tensors = [f"{tuple(t.shape)} {t.dtype}" for t in tensors_in(batch)]
        found = few(tensors) if tensors else type(batch).__name__
        raise RekernelError(
            f"batch {number}: has no floating-point tensor to be the image, but {found}; scale images as in training, "
            f"or pass forward="
        )
    if image is not None and forward is None:
        _refuse_trained_size(model, image, number)
    try:
        if forward is not None:
            forward(model, batch)
        elif image is not None:
            like = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), image)
            model(image.to(like.device, like.dtype))
    except (RekernelError, MemoryError):
        raise
    except Exception as error:  # the model may raise anything on this input
        size = "" if image is None else f", image {tuple(image.shape)}"
        raise RekernelError(
            f"batch {number}{size}: {type(model).__name__} does not run: {said_by(error)}{_hint(model, image, forward)}"
        ) from error


def _hint(model: nn.Module, image: Tensor | None, forward: Forward | None) -> str:
    """What to pass instead, to a model that did not run."""
    if forward is None and (needs := more_inputs(model)):
        call = call_with(needs, "batch")
        return f"; it also needs {', '.join(map(shown, needs))}: pass forward=lambda model, batch: {call}"
    wanted = _wanted(model, image)
    return f"; it reads images of the new size, {dims(wanted)}" if wanted else ""


def _wanted(model: nn.Module, image: Tensor | None) -> tuple[int, ...]:
    """The new size of the images of a rescaled model, if this image has another; empty if that is not known."""
    plan = getattr(model, PLAN, None)
    if not isinstance(plan, Plan) or not plan.size or image is None or image.ndim != len(plan.size) + 2:
        return ()
    scales = plan.scale if isinstance(plan.scale, tuple) else (plan.scale,) * len(plan.size)
    wanted = tuple(new_size(n, s) for n, s in zip(plan.size, scales, strict=True))
    return () if tuple(image.shape[2:]) == wanted else wanted


def _refuse_trained_size(model: nn.Module, image: Tensor, number: int) -> None:
    """Raise for images of the trained size, on which many rescaled models run, but see other things than at the new."""
    wanted, plan = _wanted(model, image), getattr(model, PLAN, None)
    if wanted and plan is not None and tuple(image.shape[2:]) == tuple(plan.size):
        raise RekernelError(
            f"batch {number}, image {tuple(image.shape)}: has the trained size {dims(plan.size)}, and this "
            f"{type(model).__name__} was rescaled for {dims(wanted)}; pass images of that size, or forward= to run "
            f"these all the same"
        )


def _measured(norms: dict[str, _BatchNorm], moments: dict[str, _Moments]) -> Saved:
    """The new statistics of the layers that were reached, in the dtypes of their buffers."""
    new: Saved = []
    for name, found in moments.items():
        if not found.count:
            continue
        for leaf, value in (("running_mean", found.mean), ("running_var", found.variance)):
            value = value.to(getattr(norms[name], leaf))
            if not value.isfinite().all():
                raise RekernelError(
                    f"{shown(name) if name else 'the batch norm layer'}: its new {leaf} is not finite in "
                    f"{value.dtype}; look for NaN in the images, or run the model in float32"
                )
            new.append((norms[name], leaf, value))
    return new


def _put(values: Saved) -> None:
    with torch.no_grad():
        for norm, leaf, value in values:
            getattr(norm, leaf).copy_(value)


def _listed(names: Sequence[str]) -> str:
    return few([shown(name) if name else "the model itself" for name in names])
