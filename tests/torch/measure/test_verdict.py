"""`rkt.verify`: what it compares, how it judges, and what it says of wrong labels."""

import numpy as np
import pytest
import torch
from torch import nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel.torch.measure.difference import reduced_by_hand
from rekernel.torch.measure.kernel_views import kernel_view
from rekernel.torch.measure.verdict import SAME, grade_of, verdict_of


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    ).eval()


def pictures(count=40, size=32):
    return 3 * torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))


def test_an_absorbed_network_gives_the_same_answers_and_a_supersampled_one_is_measured():
    model, x = classifier(), pictures()
    example = torch.zeros(1, 1, 16, 16)
    absorbed = rkt.verify(model, rkt.rescale(model, 2, example, mode="absorb"), x)
    assert absorbed.verdict.grade == "same" and absorbed.converted.kept == 1 and absorbed.converted.error < SAME
    grown = rkt.verify(model, rkt.rescale(model, 2, example, mode="supersample"), x)
    assert grown.verdict.grade in ("changed", "no better") and grown.converted.kept < grown.by_hand.kept
    # the figures are those of the single functions
    larger = rkt.rescale(model, 2, example, mode="supersample")
    assert grown.converted.error == pytest.approx(rkt.equivariance_error(model, larger, x), rel=1e-5)
    with torch.no_grad():
        same = (larger(x).argmax(1) == model(rkt.reduce_grid(x, (16, 16))).argmax(1)).double().mean()
    assert grown.converted.kept == pytest.approx(float(same))
    assert 'mode="absorb"' in str(grown.verdict) and "--mode absorb" in grown.verdict.on_command_line()


def test_batches_change_nothing():
    model, x = classifier(), pictures(130)
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16), mode="supersample")
    found = rkt.verify(model, larger, x)
    assert found.converted.error == pytest.approx(rkt.equivariance_error(model, larger, x), rel=1e-5)
    assert found.count == 130


def test_the_control_is_torchs_own_antialiased_bicubic_reduction_but_for_its_parameter():
    x = pictures(2)
    torchs = nn.functional.interpolate(x, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    assert torch.allclose(reduced_by_hand(x, (16, 16)), torchs, atol=1e-4)


def test_labels_are_scored_and_wrong_ones_refused():
    model, x = classifier(), pictures()
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16), mode="absorb")
    with torch.no_grad():
        truth = model(rkt.reduce_grid(x, (16, 16))).argmax(1)
    found = rkt.verify(model, larger, x, labels=truth)
    assert found.scores["original"].accuracy == found.scores["converted"].accuracy == 100
    for labels, words in (
        (truth[:7], "7 labels for 40 pictures"),
        (truth.double() + 0.5, "are not class numbers"),
        (np.where(np.arange(40) == 3, 10, truth), r"label 10 is not one of the 10 classes, 0 to 9"),
        (np.full(40, -1), "label -1"),
    ):
        with pytest.raises(rk.RekernelError, match=words):
            rkt.verify(model, larger, x, labels=labels)
    maps = nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1)).eval()
    with pytest.raises(rk.RekernelError, match="labels need a classifier"):
        rkt.verify(maps, rkt.rescale(maps, 2, torch.zeros(1, 1, 16, 16)), x, labels=truth)


def test_an_image_given_back_is_compared_on_its_grid_and_noise_gives_no_count_of_answers():
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 1, 1)).eval()
    larger = rkt.rescale(maps, 2, torch.zeros(1, 1, 16, 16))
    found = rkt.verify(maps, larger, pictures())
    assert found.gives_image and found.converted.kept is None and found.examples[0].maps is not None
    assert "labels at the new size would tell" in str(found.verdict) or found.verdict.grade == "close"
    noise = rkt.verify(classifier(), rkt.rescale(classifier(), 2, torch.zeros(1, 1, 16, 16), mode="supersample"),
                       pictures(), pictures=False)  # fmt: skip
    assert "smooth noise" in str(noise.verdict) and " reduced pictures (" not in str(noise.verdict)
    assert noise.examples == ()


def difference(error, kept=None):
    return rkt.Difference(error, kept)


@pytest.mark.parametrize(
    ("converted", "by_hand", "untouched", "grade"),
    [
        (difference(1e-6, 1.0), difference(0.1, 0.9), difference(1.0, 0.2), "same"),
        (difference(1e-6), difference(0.1), None, "same"),
        (difference(0.4, 0.95), difference(0.1, 0.95), difference(1.0, 0.2), "close"),
        (difference(0.1, 0.60), difference(0.2, 0.95), difference(1.0, 0.2), "changed"),
        (difference(0.1, 0.20), difference(0.2, 0.95), difference(1.0, 0.2), "changed"),  # nearer, with as many answers
        (difference(1.0, 0.15), difference(0.2, 0.95), difference(0.9, 0.2), "no better"),
        (difference(0.1, 1.0), difference(0.2, 1.0), difference(0.3, 1.0), "close"),
        (difference(0.3), difference(0.2), None, "changed"),
        (difference(0.3), difference(0.2), difference(0.3), "no better"),
    ],
)
def test_grades_compare_with_controls(converted, by_hand, untouched, grade):
    assert grade_of(converted, by_hand, untouched, 200, pictures=True) == grade
    said = verdict_of(
        converted, by_hand, untouched, 200, pictures=True, gives_image=False, strided=False
    )  # fmt: skip
    assert said.grade == grade and str(said).count("untouched network") == 1


def test_a_share_of_few_pictures_may_differ_by_chance():
    nearly, control = difference(0.3, 0.8), difference(0.1, 0.9)
    assert grade_of(nearly, control, None, 50, pictures=True) == "close"
    assert grade_of(nearly, control, None, 1000, pictures=True) == "changed"


def test_too_few_pictures_say_so_and_their_outputs_decide():
    far, near, control = difference(0.0097, 0.875), difference(0.0002, 0.875), difference(0.0003, 1.0)
    for found, grade in ((far, "changed"), (near, "close")):
        said = verdict_of(found, control, None, 8, pictures=True, gives_image=False, strided=False)
        assert said.grade == grade
        assert "too few pictures to tell (8): 7 of 8 against 8 of 8 may be chance" in str(said)
        assert "differ by 0.03 %" in str(said)


def test_a_kernel_and_its_spectrum_are_those_of_the_weights():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1))
    larger = rkt.rescale(layer, 2, torch.zeros(1, 2, 8, 8), method="cubic", mode="supersample", form="dense")
    change = larger.rekernel_plan.changed[0]
    view = kernel_view(change, layer.state_dict())
    assert view.old.shape == (3, 3) and view.new.shape == tuple(larger[0].weight.shape[2:])
    norms = layer[0].weight.flatten(0, 1).flatten(1).norm(dim=1)
    strongest = larger[0].weight.detach().flatten(0, 1)[int(norms.argmax())]
    assert np.allclose(view.new, strongest.double().numpy(), atol=1e-6)
    assert view.old_response[0].tolist() == [0, 1] and view.new_response[-1, 0] == 1  # up to s/2 per trained pixel
    assert view.new_response[0, 1] == pytest.approx(1, abs=1e-5)  # the dc gain keeps the answer to constants


def test_views_leave_out_what_is_not_a_kernel():
    bias = rkt.rescale(nn.Sequential(nn.Conv2d(1, 1, 3)), 2, torch.zeros(1, 1, 8, 8)).rekernel_plan
    assert kernel_view(bias.changed[0], {}) is None
