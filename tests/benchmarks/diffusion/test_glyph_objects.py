"""One glyph is one object, four small ones are not, and texture, slope or nothing at all fools nobody."""

import glyph_features
import glyph_objects
import numpy as np
import pytest


@pytest.fixture(scope="module")
def glyphs():
    return glyph_features.true_glyphs(400, 51, 32)[0]


def test_true_glyphs_are_one_object_at_both_sizes(glyphs):
    small = glyphs.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
    for images in (glyphs, small):
        assert (glyph_objects.count_objects(images) == 1).mean() >= 0.99


def test_four_small_glyphs_on_a_sheet_are_not_one_object(glyphs):
    sheets = glyphs.reshape(100, 2, 2, 32, 32).transpose(0, 1, 3, 2, 4).reshape(100, 64, 64)
    counts = glyph_objects.count_objects(sheets)
    assert (counts == 1).mean() <= 0.02
    assert np.median(counts) == 4


def test_a_second_half_size_glyph_in_the_corner_is_seen(glyphs):
    """Two glyphs in the opposite quarters of one common background: what is copied is the light, not its frame."""
    quarter = glyphs[:200] - np.median(glyphs[:200], axis=(1, 2), keepdims=True)
    images = np.full((100, 64, 64), 0.2)
    images[:, :32, :32] += quarter[:100]
    images[:, 32:, 32:] += quarter[100:]
    assert (glyph_objects.count_objects(images.clip(0, 1)) == 1).mean() <= 0.1


def test_fine_texture_is_not_an_object(glyphs):
    checker = 0.1 * (np.indices((32, 32)).sum(axis=0) % 2 * 2 - 1)
    counts = glyph_objects.count_objects((glyphs + checker).clip(0, 1))
    assert (counts == 1).mean() >= 0.97


def test_a_picture_of_a_background_shows_nothing():
    rows, columns = np.indices((32, 32)) / 32
    faint = np.random.default_rng(0).normal(0, 0.01, (32, 32))
    assert (
        glyph_objects.count_objects(np.array([0.2 + 0 * rows, 0.1 + 0.2 * rows + 0.1 * columns, 0.2 + faint])).max()
        == 0
    )


@pytest.mark.parametrize("shape", [(2, 24, 24), (2, 16, 32), (16, 16)])
def test_pictures_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"a multiple of 16"):
        glyph_objects.count_objects(np.zeros(shape))
