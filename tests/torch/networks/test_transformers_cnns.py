"""transformers' convolutional classifiers and segmenters, from benchmarks/accuracy/zoo.py.

Their logits are means over the image, in which errors cancel: what is compared here is small, and its order is settled
by the feature maps in benchmarks/accuracy/architectures.py (docs/pytorch.md, "Where dilation wins").
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import rekernel.torch as rkt  # noqa: E402


def test_resnet(check: Any) -> None:
    """Dense .018, factored .022, dilated .015, untouched .23. Three of its four spatial layers stride, where dilation
    is off by half a pixel; the average over the image hides it."""
    errors = check.of_the_zoo("ResNet")
    assert max(errors.dense, errors.factored) < errors.untouched / 5, errors
    assert errors.dilated < 0.03


def test_convnext(check: Any) -> None:
    """Dense .07, factored .08, dilated .02, untouched .30. Dilation wins: behind a stem of stride 4 the waves are short
    (up to .48 cycles a pixel), where every filter droops; that the layers are depthwise matters not (made dense, it is
    the same)."""
    errors = check.of_the_zoo("ConvNeXt")
    assert errors.dense < errors.untouched / 2
    assert errors.dilated < min(errors.dense, errors.factored) / 2, errors


def test_mobilenet_v2(check: Any) -> None:
    """Dense .08, factored .08, dilated .04, untouched .32: one droop for each of 17 depthwise layers, on maps of a few
    pixels."""
    errors = check.of_the_zoo("MobileNetV2")
    assert max(errors.dense, errors.factored) < errors.untouched / 2, errors
    assert errors.dilated < errors.dense


def test_segformer(check: Any) -> None:
    """Dense .03, factored .03, dilated .29, untouched .88: an overlapping patch embedding that absorbs; a dilated one
    skips three of four pixels."""
    errors = check.of_the_zoo("SegFormer")
    assert max(errors.dense, errors.factored) < errors.dilated / 4, errors
    assert errors.dilated < errors.untouched


def test_a_segmenter_supersamples_by_default(check: Any) -> None:
    """It gives an image back, which grows; the plan says that each token attends to more tokens."""
    net = check.ZOO["SegFormer"]
    larger = rkt.rescale(check.revived(net.build()), 2, torch.zeros(1, net.channels, *net.size))
    assert {c.mode for c in larger.rekernel_plan.changed} == {"supersample"}
    assert larger(torch.zeros(1, 3, 128, 128)).shape[-2:] == (32, 32)
    assert "attention looks at" in "".join(larger.rekernel_plan.warnings)


@pytest.mark.parametrize("name", ["ResNet", "ConvNeXt", "MobileNetV2"])
def test_a_classifier_absorbs_where_it_reads_the_image_by_default(name: str, check: Any) -> None:
    """MobileNetV2 computes its padding by hand, from the stride that its code finds in the layer."""
    net = check.ZOO[name]
    model, x = check.revived(net.build()), torch.randn(1, 3, *(2 * n for n in net.size))
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, *net.size))
    assert [(c.mode, c.operators[0].method) for c in larger.rekernel_plan.changed] == [("absorb", "area")]
    with torch.no_grad():
        assert torch.allclose(larger(x), model(torch.nn.functional.avg_pool2d(x, 2)), atol=1e-4)
