"""What every architecture has to show, as one fixture: `check`.

Inputs are smooth (band-limited), since that is what a network rescaled by 2 is promised to agree on.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.torch.tracing.run import trace  # noqa: E402
from rekernel_cli.user_code import import_file  # noqa: E402

GROWS = {"mode": "supersample", "method": "optimal"}
"""Every layer rescaled, so that all feature maps grow: what most tests of single layers are about."""

zoo = import_file(Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy" / "zoo.py")


def smooth(size: tuple[int, ...], channels: int, batch: int = 1, seed: int = 0) -> Any:
    """Sums of waves, along each axis at most 0.06 cycles a pixel; values of order 1."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(batch, channels, *size, dtype=torch.float64)
    for _ in range(8):
        phase = torch.rand(batch, channels, *(1 for _ in size), generator=generator, dtype=torch.float64) * 6.28
        wave = phase
        for axis, n in enumerate(size):
            shape = [1] * (2 + len(size))
            shape[2 + axis] = n
            cycles = torch.randint(0, 2 + n // 16, (1,), generator=generator).item()
            wave = wave + (6.2832 * cycles * (torch.arange(n) + 0.5) / n).reshape(shape)
        out += torch.cos(wave) * torch.randn(batch, channels, *(1 for _ in size), generator=generator)
    return out.float() / 2


@dataclass
class Errors:
    """Equivariance errors of one architecture; `untouched` is None where the original does not run at the new size."""

    dense: float
    factored: float
    dilated: float
    untouched: float | None

    def __str__(self) -> str:
        untouched = "does not run" if self.untouched is None else f"{self.untouched:.3f}"
        return f"dense {self.dense:.3f} factored {self.factored:.3f} dilated {self.dilated:.3f} untouched {untouched}"


class Check:
    """The shared assertions; each raises where its claim does not hold."""

    Called, smooth, revived, ZOO = zoo.Called, staticmethod(smooth), staticmethod(zoo.revived), zoo.ZOO

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def architecture(
        self, build: Callable[[], nn.Module], channels: int, size: tuple[int, ...], *, grows: bool | None = True,
        scale: Any = 2, prepare: Callable[[nn.Module], None] | None = None, **options: Any,
    ) -> Errors:  # fmt: skip
        """All that holds for any architecture: output size, agreement, untouched original, round trips, scale 1.

        Parameters
        ----------
        grows : whether the output's grid grows with the input's (False: it stays; None: it has none)
        prepare : further changes to the weights
        options : of `rescale`; by default, every layer is rescaled
        """
        options = {"mode": "supersample", **options}
        torch.manual_seed(0)
        model = zoo.revived(build())
        if prepare:
            prepare(model)
        example = torch.zeros(1, channels, *size)
        errors = self.errors(model, channels, size, scale, grows, **options)
        self.round_trips(build, model, example, scale, **options)
        self.round_trip_of_the_default(build, model, example, scale)
        self.scale_one(model, example)
        self.passes(build, model, example)
        return errors

    def of_the_zoo(self, name: str, **options: Any) -> Errors:
        """The same of a network of benchmarks/accuracy/zoo.py, by its name there."""
        net = zoo.ZOO[name]
        more = {} if net.modes is None else {"modes": net.modes}
        found: Errors = self.architecture(
            net.build, net.channels, net.size, grows=net.grows, scale=net.scale, prepare=net.prepare, **more, **options
        )
        return found

    def errors(
        self, model: nn.Module, channels: int, size: tuple[int, ...], scale: Any, grows: bool | None, **options: Any
    ) -> Errors:
        scales = scale if isinstance(scale, tuple) else (scale,) * len(size)
        large = tuple(round(n * s) for n, s in zip(size, scales, strict=True))
        example, x = torch.zeros(1, channels, *size), smooth(large, channels)
        before = snapshot(model)
        found = {}
        for form, method in (("dense", "optimal"), ("factored", "optimal"), ("dilated", "dilate")):
            rescaled = rkt.rescale(
                model, scale, example, form=form.replace("dilated", "dense"), method=method, **options
            )
            with torch.no_grad():
                small, out = model(example), rescaled(x)
            assert out.isfinite().all()
            grid = tuple(small.shape[2:])
            if grows is None or grows is False:
                assert out.shape == small.shape
            else:
                assert tuple(out.shape[2:]) == tuple(round(n * s) for n, s in zip(grid, scales, strict=True))
            found[form] = rkt.equivariance_error(model, rescaled, x)
        assert_same(snapshot(model), before)
        try:
            untouched = rkt.equivariance_error(model, model, x, size=size)
        except (RuntimeError, ValueError, rk.RekernelError):
            untouched = None
        return Errors(**found, untouched=untouched)

    def round_trips(
        self, build: Callable[[], nn.Module], model: nn.Module, example: Any, scale: Any, **options: Any
    ) -> None:
        """Bit-equal through a file, in both forms, into a model on the meta device, in fp16 and bf16."""
        for form, dtype in (("dense", torch.float32), ("factored", torch.float32), ("dense", torch.float16),
                            ("factored", torch.bfloat16)):  # fmt: skip
            typed = copy.deepcopy(model).to(dtype)
            rescaled = rkt.rescale(
                copy.deepcopy(model), scale, example, form=form, **{"method": "optimal", **options}
            ).to(dtype)
            path = self._folder / f"{self._count}.safetensors"
            self._count += 1
            rkt.save(rescaled, path)
            fresh = build().to(dtype).eval()
            loaded = rkt.load(fresh, path)
            assert loaded is fresh
            same_tensors(loaded, rescaled)
            with torch.device("meta"):
                empty = build().eval()
            if not any(b.device.type == "meta" and n not in empty.state_dict() for n, b in empty.named_buffers()):
                arrived = rkt.load(empty, path)
                same_tensors(arrived, rescaled)
                if dtype is torch.float32:
                    x = smooth(tuple(round(n * 2) for n in example.shape[2:]), example.shape[1])
                    if not isinstance(scale, tuple):
                        with torch.no_grad():
                            assert torch.equal(arrived(x), rescaled(x))
            del typed

    def round_trip_of_the_default(
        self, build: Callable[[], nn.Module], model: nn.Module, example: Any, scale: Any
    ) -> None:
        """Bit-equal through a file without any option."""
        rescaled, path = rkt.rescale(model, scale, example), self._folder / "default.safetensors"
        rkt.save(rescaled, path)
        loaded = rkt.load(build().eval(), path)
        same_tensors(loaded, rescaled)
        scales = scale if isinstance(scale, tuple) else (scale,) * (example.ndim - 2)
        x = smooth(tuple(round(n * s) for n, s in zip(example.shape[2:], scales, strict=True)), example.shape[1])
        with torch.no_grad():
            assert torch.equal(loaded(x), rescaled(x))

    def passes(self, build: Callable[[], nn.Module], model: nn.Module, example: Any) -> None:
        """A pass without computing sees what one that computes sees, on the meta device too, and changes nothing."""
        computed = trace(model, [example], shape_only=False)
        before = snapshot(model)
        shapes = trace(model, [example], shape_only=True)
        assert shapes.shape_only
        assert shapes == computed
        assert_same(snapshot(model), before)
        with torch.device("meta"):
            empty = build()
        nowhere = [id(p) for p in empty.parameters()]
        assert trace(empty, [example.to("meta")]) == computed
        assert [id(p) for p in empty.parameters()] == nowhere

    def scale_one(self, model: nn.Module, example: Any) -> None:
        """Scale 1 changes no bit."""
        x = smooth(tuple(example.shape[2:]), example.shape[1], seed=3)
        for form in ("dense", "factored"):
            same = rkt.rescale(model, 1, example, form=form)
            with torch.no_grad():
                assert torch.equal(same(x), model(x))


def snapshot(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """All that a rescaling could change by mistake."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return repr(model), {name: (id(t), t.detach().clone(), t.requires_grad) for name, t in tensors.items()}


def assert_same(now: Any, before: Any) -> None:
    assert now[0] == before[0]
    assert now[1].keys() == before[1].keys()
    for name, (identity, value, grad) in before[1].items():
        assert now[1][name][0] == identity, name
        assert torch.equal(now[1][name][1], value), name
        assert now[1][name][2] == grad, name


def same_tensors(one: nn.Module, other: nn.Module) -> None:
    """Same names, dtypes and bits."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


@pytest.fixture
def check(tmp_path: Path) -> Any:
    warnings.filterwarnings("ignore", module="transformers|diffusers")
    return Check(tmp_path)
