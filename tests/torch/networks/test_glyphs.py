"""The shipped classifiers through tracing and through offline conversion: the same numbers."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rekernel.torch as rkt
from rekernel_cli.demonstration.run import build, convert_example, examples
from rekernel_cli.user_code import import_file

from ...numeric import assert_ulps


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("method", ["optimal", "cubic"])
def test_tracing_and_conversion_agree(name, scale, method, tmp_path):
    models = import_file(examples() / "models.py")
    state = load_file(examples() / f"{name}.safetensors")
    traced = rkt.rescale(build(models, name, state, {}), scale, torch.zeros(1, 1, 16, 16), method=method)
    convert_example(name, scale, tmp_path / "out.safetensors", method=method)
    loaded = rkt.load(build(models, name, state, {}), tmp_path / "out.safetensors")
    for key, value in loaded.state_dict().items():
        assert_ulps(traced.state_dict()[key], value, what=key)  # by torch, and by NumPy
    with np.load(examples() / "test.npz") as data:
        images = data["images"][:100].reshape(100, 16 * scale, 4 // scale, 16 * scale, 4 // scale)
    x = torch.from_numpy(images.mean(axis=(2, 4), dtype=np.float32)[:, None] / 255)
    with torch.no_grad():
        one, two = traced.eval()(x), loaded.eval()(x)
    assert torch.allclose(one, two, atol=1e-3)
    best = one.topk(2).values
    clear = best[:, 0] - best[:, 1] > 2e-3  # a tie may go either way
    assert clear.float().mean() > 0.9 and torch.equal(one.argmax(1)[clear], two.argmax(1)[clear])
