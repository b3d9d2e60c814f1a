"""Planning without computing: the same plan, for models without memory too, and a model that stays as it was."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402
from rekernel.torch.tracing.run import trace  # noqa: E402

from ..conftest import GROWS  # noqa: E402


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 4, 2, 1), nn.Flatten(), nn.Linear(8 * 4 * 4, 5),
    )  # fmt: skip


X = torch.zeros(1, 3, 16, 16)


def test_a_model_on_meta_gets_the_plan_of_the_real_one_and_no_memory() -> None:
    model = classifier()
    with torch.device("meta"):
        empty = classifier()
    for form in ("dense", "factored"):
        plan = rkt.rescale(model, 2, X, form=form, check=False, **GROWS).rekernel_plan
        for example in (X, X.to("meta")):
            larger = rkt.rescale(empty, 2, example, form=form, check=False, **GROWS)
            assert larger.rekernel_plan.to_json() == plan.to_json()
            assert all(p.device.type == "meta" for p in larger.parameters())
    assert empty[0].weight.shape == (8, 3, 3, 3)


class Clipped(nn.Module):
    """Asks for a value on the way, as models with early exits do; large enough to be worth tracing with shapes only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = self.a(x)
        return self.b(x) if x.mean().item() < 1e9 else x


def test_values_are_computed_where_the_code_asks_for_them() -> None:
    model, x = Clipped(), torch.zeros(1, 3, 48, 48)
    seen = trace(model, [x])
    assert not seen.shape_only
    assert [c.weight for c in seen.calls] == ["a.weight", "b.weight"]
    with pytest.raises(RekernelError, match="does not run on the example input"):
        trace(model.to("meta"), [x])


def test_large_models_are_traced_with_shapes_only_by_default() -> None:
    wide = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1))
    assert trace(wide, [torch.zeros(1, 3, 64, 64)]).shape_only
    assert not trace(wide, [torch.zeros(1, 3, 8, 8)]).shape_only


@pytest.mark.parametrize("computed", [False, True])
def test_the_values_of_an_index_tell_the_order_of_pixels(computed: bool) -> None:
    """Those of a buffer are there in any pass; of a computed one only where it is computed."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(3 * 48 * 48, 512)
            self.register_buffer("order", torch.arange(3 * 48 * 48).reshape(3, -1).T.reshape(-1).clone())

        def forward(self, x: Any) -> Any:
            return self.read(x.flatten(1)[:, self.order + 0 if computed else self.order])

    model, x = Shuffled(), torch.zeros(1, 3, 48, 48)
    seen = trace(model, [x])
    assert seen.shape_only is not computed
    assert seen.calls[0].order == "channels-last"
    assert seen == trace(model, [x], shape_only=False)


class Caching(nn.Module):
    """Keeps what its forward makes in each of the places where models keep such things."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.kept: dict[str, Any] = {}
        self.steps = torch.zeros(())
        self.window = 7

    @staticmethod
    @functools.lru_cache
    def ramp(n: int) -> Any:
        return torch.arange(n, dtype=torch.float32)

    def forward(self, x: Any) -> Any:
        self.window = min(self.window, x.shape[-1])
        self.kept.setdefault("ones", torch.ones(x.shape[-1]))
        if not hasattr(self, "late"):
            self.late = torch.ones(x.shape[-1])
        self.steps = self.steps + 1
        return self.conv(x) * self.late + self.kept["ones"] * self.ramp(x.shape[-1])


@pytest.mark.parametrize("shape_only", [True, False])
def test_a_pass_leaves_nothing_in_the_model(shape_only: bool) -> None:
    model = Caching()
    before = {k: v for k, v in vars(model).items() if not k.startswith("_")}
    Caching.ramp.cache_clear()
    seen = trace(model, [torch.zeros(1, 1, 4, 4)], shape_only=shape_only)
    assert seen.shape_only is shape_only
    after = {k: v for k, v in vars(model).items() if not k.startswith("_")}
    assert after.keys() == before.keys()
    assert all(after[k] is before[k] for k in before)
    assert model.kept == {}
    assert (model.window, model.steps.item()) == (7, 0)
    out = model(torch.ones(1, 1, 4, 4))
    assert type(out) is torch.Tensor
    assert out.isfinite().all()


def test_the_statistics_of_a_model_in_training_stay() -> None:
    model = classifier().train()
    before = copy.deepcopy(model.state_dict())
    for shape_only in (True, False):
        trace(model, [torch.randn(2, 3, 16, 16)], shape_only=shape_only)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_pass_that_fails_half_way_restores_the_model_too() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 5))
    parameters = list(model.parameters())
    with pytest.raises(RekernelError, match="does not run"):
        trace(model, [X])
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert not model[0]._forward_hooks
