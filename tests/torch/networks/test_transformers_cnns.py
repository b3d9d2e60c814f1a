"""transformers' convolutional classifiers and segmenters, from benchmarks/accuracy/zoo.py.

Their logits are means over the image, in which errors cancel: what is compared here is small, and its order is settled
by the feature maps in benchmarks/accuracy/architectures.py (docs/pytorch.md, "Where dilation wins").
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")


def test_resnet(check: Any) -> None:
    """Dense .016, factored .021, dilated .015, untouched .23. Three of its four spatial layers stride, where dilation
    is off by half a pixel; the average over the image hides it."""
    errors = check.of_the_zoo("ResNet")
    assert max(errors.dense, errors.factored) < errors.untouched / 5, errors
    assert errors.dilated < 0.03


def test_convnext(check: Any) -> None:
    """Dense .16, factored .08, dilated .02, untouched .30. Dilation wins: behind a stem of stride 4 the waves are short
    (up to .48 cycles a pixel), where every filter droops and same-extent kernels amplify; that the layers are depthwise
    matters not (made dense, it is the same)."""
    errors = check.of_the_zoo("ConvNeXt")
    assert errors.dense < errors.untouched
    assert errors.dilated < errors.factored < errors.dense, errors


def test_mobilenet_v2(check: Any) -> None:
    """Dense .07, factored .08, dilated .04, untouched .32: one droop for each of 17 depthwise layers, on maps of a few
    pixels."""
    errors = check.of_the_zoo("MobileNetV2")
    assert max(errors.dense, errors.factored) < errors.untouched / 2, errors
    assert errors.dilated < errors.dense


def test_segformer(check: Any) -> None:
    """Dense .05, factored .03, dilated .41, untouched .88: an overlapping patch embedding that absorbs; a dilated one
    skips three of four pixels."""
    errors = check.of_the_zoo("SegFormer")
    assert max(errors.dense, errors.factored) < errors.dilated / 4, errors
    assert errors.dilated < errors.untouched
