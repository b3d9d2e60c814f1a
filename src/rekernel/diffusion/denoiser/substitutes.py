"""Make the rescaled layers of one denoiser when they are first needed, and lend them to single calls.

Scope: planning and layers of `rekernel.torch`. Not here: when kernels are rescaled (see `kernels/hook`). A factored
layer holds the original weight objects, so no weight is copied. A substitute replaces a layer's `forward` only while a
call runs.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.base import exactly
from ...architectures.registry import recognise
from ...errors import RekernelError
from ...escape import shown
from ...patterns import matcher, select
from ...plan.plan import Plan
from ...planning.roles import SUPERSAMPLE
from ...planning.settings import Settings
from ...text import meant
from ...torch.editing.apply import carry_out
from ...torch.editing.edits import Edits
from ...torch.layers.factored import FactoredConv, FactoredConvTranspose
from ...torch.layers.module_names import owner_of
from ...torch.planning.planner import plan_model
from ...torch.planning.reading import inner_layers
from ...torch.surroundings import own_tensors
from ...torch.tracing.run import trace
from .call import Call
from .pass_context import running

ALL = "all"
_LORA = re.compile(r"\.(base_layer|lora_[AB]\.[^.]+)(?=\.|$)")
_FACTORED = (FactoredConv, FactoredConvTranspose)


def plain_name(name: str) -> str:
    """The name that a parameter had before LoRA layers were put around its layer.

    Examples
    --------
    >>> plain_name("mid_block.conv1.base_layer.weight"), plain_name("mid_block.conv1.lora_A.style.weight")
    ('mid_block.conv1.weight', 'mid_block.conv1.weight')
    """
    return _LORA.sub("", name)


@dataclass(eq=False)
class Substitute:
    """A rescaled layer and the layer that it replaces during a call.

    A call that another thread began without hooks does not wait for its turn, and still runs the old layer.

    path : name of the layer in the denoiser
    old, new : the original layer and the rescaled one
    origin : the state of the old layer from which the new one was made, as `_origin` returns it
    thread : the thread to whose call the new layer is lent
    """

    path: str
    old: nn.Module
    new: nn.Module
    origin: tuple[Any, ...]
    thread: int = 0

    def current(self, model: nn.Module) -> bool:
        """Whether the old layer is still in the network and has not changed."""
        try:
            return model.get_submodule(self.path) is self.old and self.origin == _origin(model, self.path, self.new)
        except AttributeError:
            return False

    def __reduce_ex__(self, protocol: object) -> Any:
        """Refuse to be copied or pickled: a copy made during a call would keep the layer that was lent."""
        raise RekernelError(
            f"{shown(self.path)}: another thread is using this network now; copy the network when that call has ended"
        )

    def share(self) -> None:
        """Let a factored or dilated layer hold the parameters that the original layer has now."""
        if _shares(self.old, self.new):
            self.new._parameters.update(self.old._parameters)

    def __call__(self, x: Tensor) -> Any:
        """Run the new layer on the device of `x`: an offloaded pipeline moves the old layers, but not the new ones."""
        # Compiled code was chosen for the layer that stands there, and must not depend on the number of a thread.
        if not torch.compiler.is_compiling() and threading.get_ident() != self.thread:
            return type(self.old).forward(self.old, x)
        new: Any = self.new
        for name, filter_ in list(new._buffers.items()):
            if filter_ is not None and filter_.device != x.device:
                new._buffers[name] = filter_.to(x.device)
        own = new._parameters.get("weight")
        if own is not None and own.device != x.device and not _shares(self.old, new):
            new._parameters["weight"] = nn.Parameter(own.to(x.device), requires_grad=False)
        return new.forward(x)  # not new(x): hooks of the layer ran already, in the call of the old layer


def _shares(old: nn.Module, new: Any) -> bool:
    """Whether the new layer runs with the weights of the old one: its taps are spread, and their number is the same."""
    return isinstance(new, _FACTORED) or new.kernel_size == getattr(old, "kernel_size", None)


def _origin(model: nn.Module, path: str, new: nn.Module) -> tuple[Any, ...]:
    """The dtype; for a layer with a copy of the weights also their identity, version and merged adapters."""
    old = model.get_submodule(path)
    weight = old._parameters.get("weight")
    if weight is None or _shares(old, new):
        return (None if weight is None else weight.dtype,)
    merged = getattr(model.get_submodule(path.rpartition(".")[0]), "merged_adapters", ())
    return weight.dtype, id(weight), 0 if weight.is_inference() else weight._version, tuple(merged)


class KernelBank:
    """The substitutes of one denoiser, kept by scale, size, layers, method and form."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser: nn.Module = getattr(denoiser, "_orig_mod", denoiser)
        self._made: dict[Any, tuple[Substitute, ...]] = {}
        self._adapters: tuple[str, ...] = ()

    def substitutes(
        self, call: Call, factors: Sequence[float], layers: str | Sequence[str], method: str, form: str
    ) -> tuple[Substitute, ...]:
        """The rescaled layers for a call at `factors` times the trained size.

        They are made again where the network's layers have changed: adapters were added, removed or merged, the dtype
        changed, or weights were loaded.

        Parameters
        ----------
        call : Call
            The call at the large size; the planning pass runs its reduction to the trained size.
        factors : one per grid axis
        layers : 'inner', 'all' or patterns on parameter names
        method, form : as for `rekernel.torch.rescale`
        """
        adapters = tuple(getattr(self.denoiser, "peft_config", ()))
        if adapters != self._adapters:
            self._made.clear()
            self._adapters = adapters
        # Padding depends on the divisors of a size, so each size needs a plan of its own.
        key = (tuple(factors), call.size, layers if isinstance(layers, str) else tuple(layers), method, form)
        if not all(substitute.current(self.denoiser) for substitute in self._made.get(key, ())):
            del self._made[key]
        if key not in self._made:
            self._made[key] = self._make(call, tuple(factors), layers, method, form)
        return self._made[key]

    def _make(
        self, call: Call, factors: tuple[float, ...], layers: str | Sequence[str], method: str, form: str
    ) -> tuple[Substitute, ...]:
        model, patterns = self.denoiser, self.patterns(layers)
        # 52 pixels are odd after two halvings, and 104 are not: a plan for 52 would pad the even maps of 104 wrongly.
        whole = all(f == int(f) for f in factors)
        low = call.reduced(call.low(factors, _halved(model) if whole else 1))
        with running(bypass=True), _uncompiled(model):
            seen = trace(model, [], dict(low.arguments))
        scales = factors[len(factors) - len(seen.size) :]
        planned = plan_model(
            model, seen, Settings(scales, method), scales, form=form, mode=SUPERSAMPLE, include=patterns,
            predicts_noise=inner_layers(model) is not None,
        )  # fmt: skip
        before = dict(model.named_modules())
        for change in planned.plan.changed:
            _check_free(owner_of(change.name), before[owner_of(change.name)])
        with own_tensors(), Edits(model) as edits:
            carry_out(edits, planned.plan, weights=True)
            after = dict(model.named_modules())
            edits.undo()
        replaced = {p: (old, after[p]) for p, old in before.items() if p in after and after[p] is not old}
        _check_switchable(planned.plan, replaced)
        return tuple(Substitute(p, old, new, _origin(model, p, new)) for p, (old, new) in replaced.items())

    def patterns(self, layers: str | Sequence[str]) -> Sequence[str] | None:
        """The layers as patterns on the current names of the parameters; None for all layers.

        Raises
        ------
        RekernelError
            For a preset that the network does not have, a pattern that matches nothing, and a layer that cannot be
            replaced during a call.
        """
        patterns = None if layers == ALL else self._chosen(layers)
        for path, module in self._convolutions(patterns):
            _check_free(path, module)
        return patterns

    def check_any(self, layers: str | Sequence[str]) -> None:
        """Raise where no chosen layer slides a kernel over its input; layers that cut an image into patches do not."""
        found = self._convolutions(self.patterns(layers))
        if all(module.stride == module.kernel_size for _, module in found):
            raise RekernelError(
                f"layers={layers!r}: none of these layers of this {type(self.denoiser).__name__} slides a kernel over "
                f"its input, so there is nothing to rescale; record guidance without kernels, or positions instead"
            )

    def _convolutions(self, patterns: Sequence[str] | None) -> Iterator[tuple[str, nn.modules.conv._ConvNd]]:
        tests = None if patterns is None else [matcher(pattern) for pattern in patterns]
        for path, module in self.denoiser.named_modules():
            slides = isinstance(module, nn.modules.conv._ConvNd) and max(module.kernel_size) > 1
            if slides and (tests is None or any(test(f"{path}.weight") for test in tests)):
                yield path, module

    def _chosen(self, layers: str | Sequence[str]) -> Sequence[str]:
        tensors = self.denoiser.state_dict()
        shapes: Mapping[str, tuple[int, ...]] = {plain_name(n): tuple(t.shape) for n, t in tensors.items()}
        family = recognise(shapes)
        presets = family.presets(shapes) if family is not None else {}
        if isinstance(layers, str) and layers not in presets:
            known = ", ".join([*presets, *(() if ALL in presets else (ALL,))])
            kind = type(self.denoiser).__name__
            transformer = "Transformer" in kind
            has = "" if transformer else f" (it has: {known}{meant(layers, [*presets, ALL])})"
            instead = (
                "a transformer slides no kernels over its image; use UpsampleGuidance or a GuidedCascade instead, with "
                "RescaledPositions where the network has rotary positions"
                if transformer
                else "pass one of these, or patterns on the names of its parameters"
            )
            raise RekernelError(f"layers={layers!r} is not a preset of this {kind}{has}; {instead}")
        patterns = presets[layers] if isinstance(layers, str) else layers
        chosen = select(list(shapes), patterns, "layers")
        if not getattr(self.denoiser, "peft_config", ()):
            return patterns
        return exactly(name for name in tensors if plain_name(name) in chosen)


def _halved(model: Any) -> int:
    """Image size over the size of the deepest feature maps of a UNet; 1 for other networks."""
    widths = getattr(getattr(model, "config", None), "block_out_channels", None)
    return int(2 ** (len(widths) - 1)) if isinstance(widths, list | tuple) else 1


def _check_free(path: str, layer: nn.Module) -> None:
    if "forward" in vars(layer):
        raise RekernelError(
            f"{shown(path)}: this layer's forward is replaced already, as offloading or casting layer by layer does, "
            f"and rescaled kernels must replace it themselves; use enable_model_cpu_offload instead"
        )


def _check_switchable(plan: Plan, replaced: Mapping[str, Any]) -> None:
    names = [c.name for c in plan.changed if owner_of(c.name) not in replaced]
    names += [m.name for m in plan.modules if m.name not in replaced]
    if names:
        raise RekernelError(
            f"{shown(names[0])}: this layer cannot be switched while sampling; name other layers in layers=, or "
            f"rescale the whole network with rekernel.torch.rescale"
        )


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Run a pass without the compiled calls of modules that were compiled in place, so that it can be traced."""
    compiled = [(m, call) for m in model.modules() if (call := vars(m).pop("_compiled_call_impl", None)) is not None]
    try:
        yield
    finally:
        for module, call in compiled:
            vars(module)["_compiled_call_impl"] = call


@contextmanager
def lent(substitutes: Sequence[Substitute]) -> Iterator[None]:
    """Replace the layers in the calls inside the `with` block.

    Afterwards, also after an exception, every module is restored.
    """
    done: list[nn.Module] = []
    try:
        for substitute in substitutes:
            _check_free(substitute.path, substitute.old)
            substitute.share()
            substitute.thread = threading.get_ident()
            vars(substitute.old)["forward"] = substitute
            done.append(substitute.old)
        yield
    finally:
        for module in done:
            del vars(module)["forward"]
