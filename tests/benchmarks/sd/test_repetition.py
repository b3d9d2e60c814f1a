"""The measure of repeated content: by shapes that are drawn, and by a trained model that is known to repeat."""

import json

import numpy as np
import pytest
from PIL import Image
from repetition import mean_frequency, repetition

RNG = np.random.default_rng(0)


def blobs(side, count):
    """One disc, or `count` x `count` discs in a grid, none of which looks exactly like another."""
    y, x = np.indices((side, side)) / side * count
    wobble = RNG.uniform(0.8, 1.2, (count, count))
    radius = 0.25 * np.kron(wobble, np.ones((side // count, side // count)))
    inside = np.hypot(y % 1 - 0.5, x % 1 - 0.5) < radius
    return Image.fromarray(np.uint8(40 + 180 * inside))


@pytest.mark.parametrize("side", [64, 100 * 2, 512])
def test_twice_as_many_shapes_a_side_have_a_higher_frequency_at_any_size(side):
    one, four = mean_frequency(blobs(side, 1)), mean_frequency(blobs(side, 2))
    assert 1.5 < four / one < 2.5


def test_light_and_size_do_not_count():
    picture = blobs(256, 1)
    values = np.asarray(picture, float)
    slope = np.linspace(0, 60, 256)[:, None]
    darker = Image.fromarray(np.uint8(10 + 0.5 * values + slope)).convert("RGB")
    assert mean_frequency(darker) == pytest.approx(mean_frequency(picture), rel=0.02)
    enlarged = picture.resize((512, 512), Image.Resampling.BICUBIC)
    assert mean_frequency(enlarged) == pytest.approx(mean_frequency(picture), rel=0.01)
    noisy = Image.fromarray(np.uint8(np.clip(values + RNG.normal(0, 8, values.shape), 0, 255)))
    assert mean_frequency(noisy) == pytest.approx(mean_frequency(picture), rel=0.02)


def test_a_picture_of_one_colour_has_no_shapes():
    flat = mean_frequency(Image.new("RGB", (64, 64), "red"))
    assert flat is None
    assert repetition([flat, 1.0], [1.0, flat]) is None


def test_the_interval_holds_the_ratio_and_pairs_are_compared():
    samples = RNG.uniform(1, 3, 40)
    found = repetition(list(samples * RNG.lognormal(np.log(1.3), 0.1, 40)), list(samples))
    assert found.low < found.ratio < found.high and found.pictures == 40
    assert found.low > 1.2 and found.high < 1.4  # pair by pair: the spread of the samples themselves is cancelled


def test_the_table_of_the_readme_is_that_of_the_results():
    from repetition_check import README, RESULTS, table

    assert table(json.loads(RESULTS.read_text())) in README.read_text()


@pytest.mark.slow
def test_a_trained_model_repeats_untouched_and_not_in_a_guided_cascade():
    """examples/glyph_diffusion at twice its size: four digits without help, one in a cascade, one in true pictures."""
    from repetition_check import checked

    found = checked("glyphs", 40)
    assert found["untouched"].low > 1.15
    for name in ("guidance", "guided cascade", "true pictures"):
        assert found[name].low > 0.85 and found[name].high < 1.15
