"""transformers' convolutional classifiers and segmenters."""

from __future__ import annotations

from typing import Any

import pytest

transformers = pytest.importorskip("transformers")


def logits(model: Any, x: Any) -> Any:
    return model(x).logits


def test_resnet(check: Any) -> None:
    config = transformers.ResNetConfig(depths=[1, 1], hidden_sizes=[16, 32], embedding_size=16)
    errors = check.architecture(
        lambda: check.Called(transformers.ResNetForImageClassification(config), logits), 3, (128, 128), grows=None
    )
    assert errors.dense < errors.untouched
    # Dense .016, factored .021, dilated .015, untouched .23.


def test_convnext(check: Any) -> None:
    config = transformers.ConvNextConfig(num_stages=2, depths=[1, 1], hidden_sizes=[16, 32], layer_scale_init_value=1.0)
    errors = check.architecture(
        lambda: check.Called(transformers.ConvNextForImageClassification(config), logits), 3, (128, 128), grows=None
    )
    assert errors.dense < errors.untouched
    # Dense .16, factored .08, dilated .02, untouched .30. Dilation wins: behind a stem of stride 4 the waves are short
    # (.25 cycles a pixel), where every filter droops, and two blocks have hardly a copy of the spectrum to pass on.
    assert errors.dilated < errors.factored < errors.dense


def test_mobilenet_v2(check: Any) -> None:
    config = transformers.MobileNetV2Config(depth_multiplier=0.35)
    errors = check.architecture(
        lambda: check.Called(transformers.MobileNetV2ForImageClassification(config), logits), 3, (128, 128), grows=None
    )
    assert errors.dense < errors.untouched
    # Dense .07, factored .08, dilated .04, untouched .32: one droop for each of 18 depthwise layers.


def test_segformer(check: Any) -> None:
    config = transformers.SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=32)
    errors = check.architecture(
        lambda: check.Called(transformers.SegformerForSemanticSegmentation(config), logits), 3, (64, 64), grows=False
    )
    assert errors.dense < errors.untouched
    # Dense .05, factored .03, dilated .41, untouched .88: an overlapping patch embedding that absorbs; a dilated one
    # skips three of four pixels.
    assert errors.dense < errors.dilated / 4
