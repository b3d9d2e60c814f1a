"""transformers' models of tokens, from benchmarks/accuracy/zoo.py: ViT, DINOv2, Swin, Wav2Vec2.

They absorb the scale in their patches, so the tokens stay as many; of the untouched ones, which give more, the mean
over tokens is compared. On a grid of patches 'dilate' means 'nearest', which is exact for area averages (by duality):
0 to rounding where the dense form has .01, whatever the input. That is the measure's taste, not the method's merit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rekernel.torch as rkt  # noqa: E402


def means(check: Any, name: str, options: dict[str, Any], read: Callable[[Any], Any] | None = None) -> tuple[Any, Any]:
    """Errors of the mean token: rescaled, then untouched, which runs on the large input with more tokens."""
    net = check.ZOO[name]
    torch.manual_seed(0)
    model = check.revived(net.build())
    larger = rkt.rescale(model, 2, torch.zeros(1, net.channels, *net.size))
    x = check.smooth(tuple(2 * n for n in net.size), net.channels)
    with torch.no_grad():
        small = model(rkt.reduce_grid(x, net.size)).mean(1)
        rescaled = larger(x).mean(1)
        inside = read(x) if read else x
        untouched = model.model(inside, **options).last_hidden_state.mean(1)
    return (float((y - small).norm() / small.norm()) for y in (rescaled, untouched))


@pytest.mark.parametrize(("name", "options"), [
    ("ViT", {"interpolate_pos_encoding": True}), ("DINOv2", {}), ("Swin", {}),
])  # fmt: skip
def test_patches_absorb(name: str, options: dict[str, Any], check: Any) -> None:
    """Dense .012, .011 and .013."""
    errors = check.of_the_zoo(name)
    assert errors.untouched is None  # it refuses the size, or gives another number of tokens
    assert max(errors.dense, errors.factored) < 0.02, errors
    assert errors.dilated < 1e-5
    rescaled, untouched = means(check, name, options)
    assert rescaled < untouched / 5, (rescaled, untouched)


def test_a_dilated_patch_is_the_nearest_one_in_the_plain_form(check: Any) -> None:
    net = check.ZOO["ViT"]
    model, x = check.revived(net.build()), torch.randn(1, 3, 128, 128)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 64, 64), method="dilate")
    with torch.no_grad():
        assert torch.allclose(larger(x), model(torch.nn.functional.avg_pool2d(x, 2)), atol=1e-5)


def test_wav2vec2(check: Any) -> None:
    """Dense .005, factored .003, dilated .12: the first convolution absorbs, ten taps of stride 5, and a dilated one
    skips every other sample."""
    errors = check.of_the_zoo("Wav2Vec2")
    assert max(errors.dense, errors.factored) < 0.01, errors
    assert errors.dense < errors.dilated / 10
    rescaled, untouched = means(check, "Wav2Vec2", {}, lambda x: x[:, 0])
    assert rescaled < untouched / 5, (rescaled, untouched)


def test_a_signal_without_a_channel_axis(check: Any) -> None:
    """Wav2Vec2 takes (N, T)."""
    model = check.ZOO["Wav2Vec2"].build().model.eval()
    larger = rkt.rescale(model, 2, {"input_values": torch.zeros(1, 4000)})
    with torch.no_grad():
        old, new = model(torch.zeros(1, 4000)), larger(torch.zeros(1, 8000))
    assert new.last_hidden_state.shape == old.last_hidden_state.shape
