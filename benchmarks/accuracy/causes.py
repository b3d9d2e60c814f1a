"""Why one way of rescaling beats another: a network changed in one respect, and every layer's error of its own.

Scope: modules, inputs and the public interface of rekernel. Not here: tables and printing (see `architectures`, which
uses this module).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel.plan import changes
from rekernel.resampling import least_squares as optimal

NOISE = 0.5
"""Standard deviation of the noise on inputs of order one, per pixel of the new size; half of it is left at the old."""
MEETING = (0.5, 0.5)
"""Pass and stop band of a least-squares design that leaves no frequency free."""
FREE = 0.3
"""Where the shipped design stops keeping, cycles per old sample."""

METHODS: dict[str, dict[str, Any] | None] = {
    "untouched": None,
    "dilate": {"method": "dilate"},
    "optimal": {"method": "optimal"},
    "optimal, bands meet": {"method": "optimal", "bands": MEETING},
    "optimal full": {"method": "optimal", "taps": "full"},
    "optimal factored": {"method": "optimal", "form": "factored"},
    "cubic full": {"method": "cubic", "taps": "full"},
    "linear full": {"method": "linear", "taps": "full"},
    "nearest full": {"method": "nearest", "taps": "full"},
}


def rescaled(
    model: nn.Module,
    scale: Any,
    example: Tensor,
    method: str,
    modes: Mapping[str, str] | None = None,
    *,
    form: str | None = None,
) -> nn.Module:
    """`model` with every layer rescaled by one of METHODS; itself where that is 'untouched'."""
    options = METHODS[method]
    if options is None:
        return model
    options = options | ({"form": form, "taps": "full"} if form else {})
    with bands(*options.pop("bands", (optimal.PASS_BAND, optimal.STOP_BAND))):
        return rkt.rescale(model, scale, example, mode="supersample", modes=modes, **options)


@contextmanager
def bands(end_of_pass: float, start_of_stop: float) -> Iterator[None]:
    """The least-squares design with other bands, for as long as the block runs."""
    before = optimal.PASS_BAND, optimal.STOP_BAND
    optimal.PASS_BAND, optimal.STOP_BAND = end_of_pass, start_of_stop
    _forget_matrices()  # their keys do not hold the bands, which are constants everywhere else
    try:
        yield
    finally:
        optimal.PASS_BAND, optimal.STOP_BAND = before
        _forget_matrices()


def _forget_matrices() -> None:
    for matrix in (changes._small_matrix, changes._large_matrix):
        matrix.cache_clear()


# --- inputs ----------------------------------------------------------------------------------------------------


def waves(size: tuple[int, ...], channels: int, *, band: float = 0.06, batch: int = 1, seed: int = 0) -> Tensor:
    """Periodic sums of waves of at most `band` cycles a pixel along each axis; values of order one."""
    draws = torch.Generator().manual_seed(seed)
    ones = [1] * len(size)
    out = torch.zeros(batch, channels, *size, dtype=torch.float64)
    for _ in range(8):
        wave = torch.rand(batch, channels, *ones, generator=draws, dtype=torch.float64) * 6.2832
        for axis, n in enumerate(size):
            most = max(1, round(band * n))
            cycles = int(torch.randint(-most, most + 1, (1,), generator=draws))
            at = (torch.arange(n, dtype=torch.float64) + 0.5) / n
            wave = wave + 6.283185307179586 * cycles * at.reshape([*ones[:axis], n, *ones[axis + 1 :]])
        out += torch.cos(wave) * torch.randn(batch, channels, *ones, generator=draws)
    return out.float() / 2


def noisy(x: Tensor) -> Tensor:
    return x + NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def edged(x: Tensor) -> Tensor:
    """Black and white where the waves cross zero: edges as sharp as pixels allow."""
    return x.sign()


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {"smooth": lambda x: x, "edges": edged, "noise": noisy}


# --- one respect at a time -------------------------------------------------------------------------------------


def without_borders(model: nn.Module) -> nn.Module:
    """The network with circular instead of zero padding; with periodic inputs there is then no border."""
    for m in model.modules():
        if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) and m.padding_mode == "zeros" and any(m.padding):
            m.padding_mode = "circular"
            m._reversed_padding_repeated_twice = [p for p in reversed(m.padding) for _ in range(2)]
    return model


def without_norms(model: nn.Module) -> nn.Module:
    return _replaced(model, lambda m: "norm" in type(m).__name__.lower())


def without_activations(model: nn.Module) -> nn.Module:
    return _replaced(model, is_activation)


def with_dense_kernels(model: nn.Module) -> nn.Module:
    """Depthwise convolutions made full ones, with the same taps on their diagonal and as many others beside it."""
    draws = torch.Generator().manual_seed(7)
    for m in model.modules():
        if isinstance(m, nn.Conv2d) and m.groups > 1:
            per_group = m.weight.shape[1]
            m.weight.data = torch.randn(
                m.out_channels, m.in_channels, *m.kernel_size, generator=draws
            ) * m.weight.std() * (per_group / m.in_channels) ** 0.5  # fmt: skip
            m.groups = 1
    return model


def is_activation(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return any(a in kind for a in ("relu", "silu", "gelu", "tanh")) and not any(True for _ in module.parameters())


def _replaced(model: nn.Module, chosen: Callable[[nn.Module], bool]) -> nn.Module:
    for module in model.modules():
        for name, child in list(module.named_children()):
            if chosen(child):
                setattr(module, name, nn.Identity())
    return model


def with_flatten_by(model: nn.Module, larger: nn.Module, method: str) -> nn.Module:
    """`larger` again from its plan, with weights that read pixels resampled by `method`."""
    edited = [
        replace(change, operators=tuple(
            replace(o, method=method) if o.geometry == "grid" else o for o in change.operators
        ))
        for change in larger.rekernel_plan.changes
    ]  # fmt: skip
    return rkt.apply_plan(copy.deepcopy(model), replace(larger.rekernel_plan, changes=tuple(edited)))


# --- every layer's own error -----------------------------------------------------------------------------------


def own_errors(model: nn.Module, larger: nn.Module, x: Tensor, scale: float) -> list[dict[str, Any]]:
    """What every layer adds by itself: D larger_layer(h) against layer(D h), h what reaches it in the larger network.

    Returns
    -------
    list of dict
        name; kind ('stride 1', 'depthwise', 'strided', 'pooling', 'activation', 'norm', ...); error, relative;
        beyond: of a convolution, the share of its input's energy at FREE cycles per old pixel and above, zero
        frequency not counted. Left out: layers whose input is not `scale` times the original's (padded by hand, or
        channels last).
    """
    units = {name: kind for name, m in model.named_modules() if (kind := _kind(name, m, model))}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if name not in seen and args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
                # Cloned: some networks add a residual in place.
                seen[name] = args[0].detach().clone(), out.detach().clone()

        return hook

    def pass_of(network: nn.Module, image: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        modules = dict(network.named_modules())
        seen.clear()
        hooks = [modules[name].register_forward_hook(note(name)) for name in units if name in modules]
        network(image)
        for hook in hooks:
            hook.remove()
        return dict(seen)

    originals, rows = dict(model.named_modules()), []
    with torch.no_grad():
        small = pass_of(model, rkt.reduce_grid(x, tuple(round(n / scale) for n in x.shape[2:])))
        for name, (h, out) in pass_of(larger, x).items():
            size = small[name][0].shape[2:]
            if h.ndim != x.ndim or h.shape[2:] != tuple(round(n * scale) for n in size):
                continue
            y = originals[name](rkt.reduce_grid(h, tuple(size)))
            z = rkt.reduce_grid(out, tuple(y.shape[2:]))
            error = float((z - y).norm() / y.norm().clamp_min(1e-30))
            rows.append({"name": name, "kind": units[name], "error": error})
            if units[name] in ("stride 1", "depthwise", "strided"):
                rows[-1]["beyond"] = beyond(h, FREE / scale)
    return rows


def beyond(h: Tensor, cycles: float) -> float:
    """Share of the energy of `h` (N, C, H, W), means apart, at `cycles` a pixel and above along either axis."""
    power = torch.fft.fft2(h.double()).abs().square()
    power[..., 0, 0] = 0
    rows, columns = (torch.fft.fftfreq(n).abs() >= cycles for n in h.shape[2:])
    return float(power[..., rows[:, None] | columns[None, :]].sum() / power.sum().clamp_min(1e-30))


def _kind(name: str, module: nn.Module, model: nn.Module) -> str:
    """The kind of a layer; '' for a module that is not a layer of its own."""
    parts = name.split(".")
    inside = any(
        type(model.get_submodule(".".join(parts[:i]))).__name__ in _WHOLE for i in range(1, len(parts))
    )  # fmt: skip
    if not name or inside:
        return ""
    if type(module).__name__ in _WHOLE:
        return _WHOLE[type(module).__name__]
    if isinstance(module, nn.ConvTranspose2d):
        return "transposed"
    if isinstance(module, nn.Conv2d):
        if max(module.stride) > 1:
            return "strided"
        if max(module.kernel_size) == 1:
            return ""
        return "depthwise" if module.groups == module.in_channels > 1 else "stride 1"
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return "pooling"
    if is_activation(module):
        return "activation"
    return "norm" if isinstance(module, nn.GroupNorm | nn.BatchNorm2d) else ""


# diffusers' own, whose padding or enlargement by hand belongs to the layer.
_WHOLE: Mapping[str, str] = {"Downsample2D": "strided", "Upsample2D": "upsampled"}


# --- depth -----------------------------------------------------------------------------------------------------


def stack(depth: int, activation: type[nn.Module] = nn.ReLU, width: int = 16) -> nn.Module:
    """3x3 convolutions of stride 1 without norms or borders, random weights that keep the variance."""
    layers: list[nn.Module] = []
    for i in range(depth):
        conv = nn.Conv2d(3 if i == 0 else width, width, 3, padding=1, padding_mode="circular", bias=False)
        layers += [conv, activation()]
    draws = torch.Generator().manual_seed(0)
    for layer in layers[::2]:
        weight: Any = layer.weight
        weight.data = torch.randn(weight.shape, generator=draws) * (2 / weight[0].numel()) ** 0.5
    return nn.Sequential(*layers).eval()


def relative(y: Tensor, wanted: Tensor) -> float:
    return float((y - wanted).norm() / wanted.norm())


def peak(k: int, scale: float, taps: Any = None) -> float:
    """Largest gain of any column of an optimal kernel at any frequency, per axis."""
    import numpy as np

    matrix = rk.kernel_operator(k, scale, "optimal", taps=taps)
    place = (np.arange(len(matrix)) - (len(matrix) - 1) / 2) / scale
    turns = np.exp(-2j * np.pi * np.linspace(0, scale / 2, 401)[:, None] * place)
    return float(np.abs(turns @ matrix).max())
