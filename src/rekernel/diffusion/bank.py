"""The rescaled layers of one denoiser, made when first needed and lent to a call.

Knows planning and layers of `rekernel.torch`; not when kernels are rescaled. A factored layer holds the original
weight objects, so nothing is copied; a substitute stands in a layer's `forward` while a call runs, and no longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import RekernelError
from ..escape import shown
from ..families import recognise
from ..settings import Settings
from ..torch.apply import carry_out
from ..torch.edits import Edits
from ..torch.planner import plan_model
from ..torch.trace import trace
from .bands import block_split
from .calls import Call
from .passes import running

INNER = "inner"
ALL = "all"


@dataclass(frozen=True)
class Substitute:
    """A rescaled layer and the one whose place it takes during a call.

    path : in the denoiser
    """

    path: str
    old: nn.Module
    new: nn.Module

    def __call__(self, x: Tensor) -> Any:
        """Run the new layer where `x` is: an offloaded pipeline moves weights, but not what it does not know."""
        new = self.new
        for name, filter_ in list(new._buffers.items()):
            if filter_ is not None and filter_.device != x.device:
                new._buffers[name] = filter_.to(x.device)
        own = new._parameters.get("weight")
        if own is not None and own.device != x.device and own is not self.old._parameters.get("weight"):
            new.to(x.device)
        return new(x)


class KernelBank:
    """Substitutes by scale and method."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser: nn.Module = getattr(denoiser, "_orig_mod", denoiser)
        self._made: dict[Any, tuple[Substitute, ...]] = {}

    def substitutes(
        self, call: Call, factors: Sequence[float], layers: str | Sequence[str], method: str, form: str
    ) -> tuple[Substitute, ...]:
        """The rescaled layers for a call at `factors` times the trained size.

        Parameters
        ----------
        call : Call
            At the large size; its reduction is what the planning pass looks at.
        factors : one per grid axis
        layers : 'inner', 'all' or patterns on parameter names
        method, form : as for `rekernel.torch.rescale`
        """
        # Padding depends on how sizes divide, so a plan is for one size.
        key = (tuple(factors), call.size, layers if isinstance(layers, str) else tuple(layers), method, form)
        if key not in self._made:
            self._made[key] = self._make(call, tuple(factors), layers, method, form)
        return self._made[key]

    def _make(
        self, call: Call, factors: tuple[float, ...], layers: str | Sequence[str], method: str, form: str
    ) -> tuple[Substitute, ...]:
        model = self.denoiser
        low = call.reduced(block_split(call.size, factors))
        with running(plain=True):
            seen = trace(model, [], dict(low.arguments))
        scales = factors[len(factors) - len(seen.size) :]
        planned = plan_model(model, seen, Settings(scales, method), scales, form=form, include=self._patterns(layers))
        before = dict(model.named_modules())
        with Edits(model) as edits:
            carry_out(edits, planned.plan, weights=True)
            after = dict(model.named_modules())
            made = tuple(
                Substitute(p, old, after[p]) for p, old in before.items() if p in after and after[p] is not old
            )
            edits.undo()
        for substitute in made:
            if "forward" in vars(substitute.old):
                raise RekernelError(
                    f"{shown(substitute.path)}: something stands in this layer's forward already (offloading layer by "
                    f"layer does); rescaled kernels need the layer itself: use enable_model_cpu_offload instead"
                )
        return made

    def _patterns(self, layers: str | Sequence[str]) -> Sequence[str] | None:
        if layers == ALL:
            return None
        if not isinstance(layers, str):
            return layers
        shapes: Mapping[str, tuple[int, ...]] = {n: tuple(t.shape) for n, t in self.denoiser.state_dict().items()}
        family = recognise(shapes)
        presets = family.presets(shapes) if family is not None else {}
        if layers not in presets:
            known = ", ".join([*presets, *(() if ALL in presets else (ALL,))])
            raise RekernelError(
                f"layers={layers!r} is no preset of this {type(self.denoiser).__name__} (it has: {known}); "
                f"pass patterns on its parameter names"
            )
        return presets[layers]


@contextmanager
def lent(substitutes: Sequence[Substitute]) -> Iterator[bool]:
    """Run the calls inside with these layers, and say whether there are any.

    Afterwards every module is as it was, also after an exception.
    """
    done: list[nn.Module] = []
    try:
        for substitute in substitutes:
            vars(substitute.old)["forward"] = substitute
            done.append(substitute.old)
        yield bool(substitutes)
    finally:
        for module in done:
            del vars(module)["forward"]
