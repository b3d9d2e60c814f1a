"""The check by running looks at all that a model gives, and at all images that it is given."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

X = torch.zeros(1, 3, 16, 16)


class Several(nn.Module):
    """Gives a right answer, and behind it one that counts pixels."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 8, 3, padding=1), form

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        right, wrong = y.mean((2, 3)), y.sum((2, 3)) / (x.shape[2] * x.shape[3])
        if self.form == "dict":
            return {"loss": right.new_zeros(()), "logits": right, "extra": [wrong]}
        return right, wrong


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_every_output_counts(form: str) -> None:
    model = Several(form).eval()
    larger, x = rkt.rescale(model, 2, X), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        new, old = larger(x), model(F.avg_pool2d(x, 2))
    a, b = (out["extra"][0] if form == "dict" else out[1] for out in (new, old))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert larger.rekernel_plan.resamples


def test_an_image_of_another_size_is_not_left_at_zero() -> None:
    """The layer that both images share may not absorb the scale of one."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(16, 5)

        def forward(self, x: Any, y: Any) -> Any:
            return self.head(torch.cat([self.conv(x).mean((2, 3)), self.conv(y).mean((2, 3))], 1))

    model = Pair().eval()
    larger = rkt.rescale(model, 2, (X, torch.zeros(1, 3, 8, 8)))
    x, y = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(larger(x, y), model(F.avg_pool2d(x, 2), y), atol=1e-5, rtol=1e-4)


def test_a_refusal_names_the_layer_whose_code_failed() -> None:
    class Hard(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(1, 8, 16, 16)

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Hard(), nn.Conv2d(8, 3, 1))).eval()
    with pytest.raises(rk.RekernelError, match=r"in 1\.0 \(Hard\)"):
        rkt.rescale(model, 2, X, mode="supersample")
