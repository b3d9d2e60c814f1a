"""transformers' models of tokens: ViT, DINOv2, Swin, Wav2Vec2.

The untouched ones refuse the new size, or compare token grids of other sizes. Patches absorb: on their grid, 'dilate'
means 'nearest', which is exact for area averages (by duality), so it wins: 0 where the dense form has .01.
"""

from __future__ import annotations

from typing import Any

import pytest

transformers = pytest.importorskip("transformers")


def hidden(model: Any, x: Any) -> Any:
    return model(x).last_hidden_state


def test_vit(check: Any) -> None:
    config = transformers.ViTConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32, image_size=64
    )
    errors = check.architecture(lambda: check.Called(transformers.ViTModel(config), hidden), 3, (64, 64), grows=None)
    assert errors.untouched is None
    assert errors.dense < 0.02
    assert errors.dilated < 1e-5


def test_dinov2(check: Any) -> None:
    config = transformers.Dinov2Config(num_hidden_layers=1, hidden_size=32, num_attention_heads=2, image_size=56)
    errors = check.architecture(lambda: check.Called(transformers.Dinov2Model(config), hidden), 3, (56, 56), grows=None)
    assert errors.dense < 0.02


def test_swin(check: Any) -> None:
    config = transformers.SwinConfig(depths=[1, 1], num_heads=[2, 2], embed_dim=16, image_size=64, window_size=4)
    errors = check.architecture(lambda: check.Called(transformers.SwinModel(config), hidden), 3, (64, 64), grows=None)
    assert errors.dense < 0.02


def test_wav2vec2(check: Any) -> None:
    config = transformers.Wav2Vec2Config(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32, conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    errors = check.architecture(
        lambda: check.Called(transformers.Wav2Vec2Model(config), lambda m, x: m(x[:, 0]).last_hidden_state),
        1, (4000,), grows=None,
    )  # fmt: skip
    assert errors.dense < 0.02


def test_a_signal_without_a_channel_axis() -> None:
    """Wav2Vec2 takes (N, T)."""
    torch = pytest.importorskip("torch")
    import rekernel.torch as rkt

    config = transformers.Wav2Vec2Config(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32, conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2Model(config).eval()
    larger = rkt.rescale(model, 2, {"input_values": torch.zeros(1, 4000)})
    with torch.no_grad():
        old, new = model(torch.zeros(1, 4000)), larger(torch.zeros(1, 8000))
    assert new.last_hidden_state.shape == old.last_hidden_state.shape
