"""Resampling the image in front of a model."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402

from rekernel.torch.layers.resample_image import Resample  # noqa: E402


def test_a_pass_with_fake_tensors_leaves_none_behind() -> None:
    """The second trace of `rescale` may compute nothing; what it cached must not reach the user's images."""
    resample = Resample((2.0, 2.0), "area")
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(resample.reduced(torch.zeros(1, 1, 74, 74)), FakeTensor)
    assert resample.reduced(torch.ones(1, 1, 74, 74)).sum().item() == pytest.approx(37 * 37)
