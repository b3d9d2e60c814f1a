"""What a rescaled ONNX convolution reads beyond the border."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from rekernel.torch import rescale  # noqa: E402

from .running import converted, graph, node, normal, said  # noqa: E402


@pytest.mark.parametrize("opset", [10, 13, 18])
@pytest.mark.parametrize("method", ["optimal", "cubic", "dilate"])
def test_a_convolution_without_padding_repeats_the_last_pixel(method, opset, tmp_path):
    """Zeros beyond the border would be a step that the trained kernel never saw. torch and ONNX say the same."""
    weight = np.abs(normal(4, 3, 2, 2)) + 0.1
    source = graph(
        tmp_path / "m.onnx", [node("Conv", "x w", "y", strides=[2, 2])], {"w": weight}, (1, 3, 8, 8), opset=opset
    )
    target, _ = converted(source, 2, mode="supersample", method=method)
    flat = np.ones((1, 3, 16, 16), np.float32)
    np.testing.assert_allclose(said(target, flat), np.broadcast_to(said(source, flat[..., :8, :8])[..., :1, :1],
                               (1, 4, 8, 8)), rtol=1e-5)  # fmt: skip
    net = torch.nn.Conv2d(3, 4, 2, 2, bias=False)
    net.weight = torch.nn.Parameter(torch.from_numpy(weight))
    larger = rescale(net, 2, torch.zeros(1, 3, 8, 8), mode="supersample", method=method)
    x = normal(1, 3, 16, 16, seed=2)
    with torch.no_grad():
        np.testing.assert_allclose(said(target, x), larger(torch.from_numpy(x)).numpy(), atol=1e-4)
