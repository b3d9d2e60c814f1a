"""A rescaled network as ONNX, run by onnxruntime: exporters see ordinary convolutions, blurs and dilated ones."""

import pytest
import torch
from torch import nn

import rekernel.torch as rkt

from .conftest import GROWS

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


def run_as_onnx(model, arguments, path):
    torch.onnx.export(model, arguments, path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, (a.numpy() for a in arguments), strict=True)))[0])


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_a_cnn_exports_and_runs(form, tmp_path):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    model = rkt.rescale(nn.Sequential(*layers).eval(), 2, torch.zeros(1, 3, 16, 16), form=form, **GROWS).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(run_as_onnx(model, (x,), tmp_path / "m.onnx"), model(x), atol=1e-5)


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_a_generator_exports_and_runs(form, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, 2, 1, output_padding=1)
    ).eval()
    larger = rkt.rescale(model, 2, torch.zeros(1, 4, 6, 6), form=form, **GROWS).eval()
    x = torch.randn(1, 4, 12, 12)
    with torch.no_grad():
        assert torch.allclose(run_as_onnx(larger, (x,), tmp_path / "m.onnx"), larger(x), atol=1e-5)


class Denoiser(nn.Module):
    """A diffusers UNet with tensors in and out."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x, t):
        return self.unet(x, t).sample


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", "factored"])
def test_a_unet_exports_and_runs(form, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    t = torch.tensor([10.0])
    model = rkt.rescale(Denoiser(unet).eval(), 2, (torch.zeros(1, 3, 16, 16), t), form=form, **GROWS).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(run_as_onnx(model, (x, t), tmp_path / "m.onnx"), model(x, t), atol=1e-4)
