"""The means by which architectures.py tells causes apart."""

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 5, padding=2, groups=8)
    ).eval()


def test_own_errors_start_anew_at_every_layer():
    from causes import own_errors, waves

    model, x = network(), waves((64, 64), 3)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 32, 32), method="dilate")
    own = {row["name"]: row for row in own_errors(model, larger, x, 2)}
    passed_on = {layer.name: layer.error for layer in rkt.layer_errors(model, larger, x, (32, 32))}
    assert [own[n]["kind"] for n in "0123"] == ["stride 1", "activation", "strided", "depthwise"]
    assert max(own["0"]["error"], own["3"]["error"]) < 1e-5  # dilated layers of stride 1 are exact
    assert own["2"]["error"] > 0.05
    assert passed_on["3"] > 0.05  # though it does nothing wrong itself


def test_energy_beyond_a_frequency():
    from causes import beyond

    at = torch.arange(32.0)
    slow, fast = (torch.cos(6.283185307 * f * at).expand(1, 1, 32, 32) for f in (0.125, 0.375))
    assert beyond(1 + slow, 0.3) < 1e-9
    assert beyond(5 + fast, 0.3) > 1 - 1e-9
    assert beyond((slow + fast).transpose(2, 3), 0.3) == pytest.approx(0.5)


def test_other_bands_are_gone_afterwards():
    from causes import rescaled

    model, example = nn.Conv2d(1, 1, 3, padding=1), torch.zeros(1, 1, 8, 8)
    kernels = [rescaled(model, 2, example, m).weight for m in ("optimal", "optimal, bands meet", "optimal")]
    assert not torch.allclose(kernels[0], kernels[1])
    assert torch.equal(kernels[0], kernels[2])


def test_a_change_changes_one_respect():
    from causes import with_dense_kernels, without_activations, without_borders

    x = torch.randn(1, 3, 16, 16)
    round_the_edge = without_borders(network())
    with torch.no_grad():
        shifted = round_the_edge(x.roll(4, 3))
        assert torch.allclose(shifted, round_the_edge(x).roll(2, 3), atol=1e-5)
        linear = without_activations(network())
        assert torch.allclose(linear(2 * x) - linear(x), linear(x) - linear(0 * x), atol=1e-5)
    dense = with_dense_kernels(network())[3]
    assert dense.groups == 1
    assert dense.weight.shape == (8, 8, 5, 5)
    assert dense.weight.var().item() * 8 == pytest.approx(network()[3].weight.var().item(), rel=0.2)


def test_the_flatten_alone_is_resampled_anew():
    from causes import with_flatten_by

    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 8 * 8, 3))
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 8, 8), method="dilate", mode="supersample")
    other = with_flatten_by(model, larger, "cubic")
    assert torch.equal(other[0].weight, larger[0].weight)
    assert not torch.allclose(other[2].weight, larger[2].weight)
    wanted = rkt.rescale(model, 2, torch.zeros(1, 1, 8, 8), method="cubic", mode="supersample")
    assert torch.allclose(other[2].weight, wanted[2].weight)
