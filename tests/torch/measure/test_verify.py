"""What measuring a model must not change, and what it must know by itself."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rekernel.torch as rkt
from rekernel import RekernelError
from rekernel_cli.demonstration.run import build, convert_example, examples
from rekernel_cli.user_code import import_file


def test_a_file_converted_offline_tells_its_scale(tmp_path):
    models, state = import_file(examples() / "models.py"), load_file(examples() / "cnn.safetensors")
    convert_example("cnn", 2, tmp_path / "out.safetensors")
    loaded = rkt.load(build(models, "cnn", state, {}), tmp_path / "out.safetensors")
    original, x = build(models, "cnn", state, {}), torch.rand(2, 1, 32, 32)
    assert rkt.equivariance_error(original, loaded, x) == rkt.equivariance_error(original, loaded, x, size=(16, 16))


def test_each_module_keeps_its_own_mode():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout()).train()
    model[1].eval()  # a frozen norm inside a model in training
    x = torch.rand(1, 1, 16, 16)
    rkt.equivariance_error(model, model, x, size=(8, 8))
    rkt.layer_errors(model, model, x, (8, 8))
    assert [module.training for module in model] == [True, False, True]


def test_a_model_without_a_tensor_in_its_answer_is_named():
    class Silent(nn.Module):
        def forward(self, x):
            return {}

    with pytest.raises(RekernelError, match="returned dict without a tensor"):
        rkt.equivariance_error(Silent(), Silent(), torch.rand(1, 1, 16, 16), size=(8, 8))


def test_inputs_of_the_trained_size_are_refused_by_the_size_that_is_needed():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 16 * 16, 3))
    rescaled = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16))
    with pytest.raises(
        RekernelError, match=r"original \(Sequential\) does not run on inputs \(1, 1, 8, 8\).*inputs of the new size"
    ):
        rkt.equivariance_error(model, rescaled, torch.rand(1, 1, 16, 16))
