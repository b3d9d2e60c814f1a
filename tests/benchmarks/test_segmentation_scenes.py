"""Scenes whose labels match their pixels, their reduction, and the mean IoU against a count by hand."""

import numpy as np
import pytest
import segmentation_scenes as scenes_of
import torch

GROUND, OPAQUE = scenes_of.GROUND, scenes_of.OPAQUE


def pieces(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Pieces with holes, of classes 0 to 9, each of another brightness."""
    x = np.zeros((count, 28, 28), np.float32)
    for i in range(count):
        x[i, 4:24, 6:20] = 0.5 + 0.05 * i
        x[i, 10:14, 10:14] = 0.0
    return x, np.arange(count)


def test_the_same_seed_draws_the_same_scenes_and_another_seed_others():
    x, y = pieces()
    one, same, other = (scenes_of.scenes(x, y, 4, seed) for seed in ((0, 7), (0, 7), (0, 8)))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_pictures_lie_between_0_and_1_and_every_class_occurs():
    pictures, truth = scenes_of.scenes(*pieces(), 60, 0)
    assert pictures.dtype == torch.float32 and truth.dtype == torch.int64
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert truth.unique().tolist() == list(range(scenes_of.CLASSES))


def test_labels_name_the_piece_whose_pixels_are_seen(monkeypatch):
    x, y = pieces()
    monkeypatch.setattr(scenes_of, "_shaded", lambda texture, _rng: np.full(texture.shape, 2.0))
    pictures, truth = scenes_of.scenes(x, y, 30, 0)
    pictures = pictures[:, 0]
    assert torch.equal(pictures == 2.0, truth == GROUND)  # the holes of a piece show the ground, and are ground
    for kind in range(10):
        seen = pictures[truth == kind]
        whole = 0.5 + 0.05 * kind
        assert 0.7 * whole - 1e-6 <= seen.min() and seen.max() <= whole + 1e-6


def test_a_later_piece_covers_an_earlier_one_in_the_picture_and_in_the_labels(monkeypatch):
    monkeypatch.setattr(scenes_of, "_shaded", lambda texture, _rng: np.zeros(texture.shape))
    x = np.stack([np.full((28, 28), 0.2), np.full((28, 28), 1.0)])
    pictures, truth = scenes_of.scenes(x, np.array([0, 1]), 20, 0, side=28)  # every piece has the same place
    for picture, labels in zip(pictures[:, 0], truth, strict=True):
        assert len(labels.unique()) == len(picture.unique()) == 1
        assert (labels.max() == 1) == (picture.max() > 0.5)


def test_gratings_vanish_where_a_picture_is_reduced_and_noise_does_not():
    nothing = np.zeros((1, 28, 28))  # all ground
    share = {}
    for ground in ("noise", "gratings"):
        pictures, _ = scenes_of.scenes(nothing, np.array([0]), 20, 0, ground=ground)
        power = torch.fft.fft2(pictures - pictures.mean((2, 3), keepdim=True)).abs().square()
        low = torch.fft.fftfreq(scenes_of.SIDE).abs() < 0.2
        share[ground] = float(power[..., low[:, None] & low].sum() / power.sum())
    assert share["gratings"] < 0.03 and share["noise"] > 0.4


def test_darker_pixels_than_opaque_are_ground():
    x = np.full((1, 28, 28), OPAQUE * 0.99)
    assert (scenes_of.scenes(x, np.array([5]), 3, 0)[1] == GROUND).all()


def test_reduced_labels_take_the_majority_and_break_ties_by_a_seeded_draw():
    truth = torch.randint(0, scenes_of.CLASSES, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    reduced = scenes_of.reduced_labels(truth, 3)
    for n, i, j in np.ndindex(2, 4, 4):
        counts = np.bincount(truth[n, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].flatten(), minlength=scenes_of.CLASSES)
        assert counts[reduced[n, i, j]] == counts.max()
    tied = torch.tensor([2, 9]).repeat(100)[None, None].expand(1, 2, 200).contiguous()
    drawn = scenes_of.reduced_labels(tied, 2)
    assert torch.equal(drawn, scenes_of.reduced_labels(tied, 2))
    assert 25 < (drawn == 2).sum() < 75 and ((drawn == 2) | (drawn == 9)).all()


def test_confusion_and_mean_iou_agree_with_sets_of_pixels():
    draws = torch.Generator().manual_seed(1)
    truth = torch.randint(0, 9, (3, 20, 20), generator=draws)  # classes 9 and 10 do not occur
    predicted = torch.where(torch.rand(truth.shape, generator=draws) < 0.6, truth, (truth + 1) % 9)
    expected = []
    for kind in range(9):
        mine, its = set((predicted == kind).flatten().nonzero()[:, 0].tolist()), set(
            (truth == kind).flatten().nonzero()[:, 0].tolist()
        )  # fmt: skip
        expected.append(len(mine & its) / len(mine | its))
    counts = scenes_of.confusion(predicted, truth)
    assert counts.sum() == truth.numel() and counts[2, 3] == ((truth == 2) & (predicted == 3)).sum()
    assert scenes_of.mean_iou(counts) == pytest.approx(np.mean(expected))


def test_a_class_that_is_named_and_never_true_counts_as_zero():
    counts = torch.tensor([[8, 2], [0, 0]])
    assert scenes_of.mean_iou(counts) == pytest.approx(0.4)
