"""Option values: what is understood, and that everything else is refused with the value and an example."""

import contextlib

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekernel_cli import values

factors = st.floats(1e-3, 16, allow_nan=False).map(lambda x: float(f"{x:.6g}"))


@given(st.lists(factors, min_size=1, max_size=3).filter(lambda numbers: len(numbers) != 2 or len({*numbers}) == 1))
def test_a_scale_reads_back_as_it_was_typed(numbers):
    text = "x".join(repr(n) for n in numbers)
    parsed = values.scale(text)
    assert (parsed if isinstance(parsed, tuple) else (parsed,)) == tuple(numbers)


@given(st.text(max_size=12))
def test_any_text_is_a_good_scale_or_a_usage_error(text):
    try:
        parsed = values.scale(text)
    except click.BadParameter as error:
        assert repr(text) in error.message and ("such as 2" in error.message or "--" in error.message)
    else:
        for factor in parsed if isinstance(parsed, tuple) else (parsed,):
            assert 0 < factor < float("inf")


@pytest.mark.parametrize(
    "text", ["0", "-1", "inf", "nan", "1e999", "2x", "x2", "2x0", "1_0", "2,2", "1x1x1x1", "", "٢"]
)
def test_impossible_scales_are_refused(text):
    with pytest.raises(click.BadParameter):
        values.scale(text)


@pytest.mark.parametrize(("text", "meant"), [("1024", "1024x1024"), ("1024x768", "1024x768"), ("1x17x20", "17x20")])
def test_a_size_typed_as_a_scale_names_the_option_for_sizes(text, meant):
    with pytest.raises(click.BadParameter, match=rf"did you mean --to {meant}\?"):
        values.scale(text)


@pytest.mark.parametrize("text", ["2x1.5", "1X2"])
def test_two_scales_that_differ_are_refused_since_width_and_height_cannot_be_told(text):
    with pytest.raises(click.BadParameter, match=r"--scale-w .* --scale-h"):
        values.scale(text)
    with pytest.raises(click.BadParameter, match="scale_w and scale_h go together"):
        values.override("conv1:scale_w=2")


def test_sizes_are_width_by_height_and_one_number_is_a_square():
    assert values.size("1024x768") == (768, 1024) and values.size("384") == (384, 384)
    for text in ("0x5", "0", "5x", "axb", "-1x5"):
        with pytest.raises(click.BadParameter, match="WIDTHxHEIGHT"):
            values.size(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("5GB", 5 * 10**9), ("5gb", 5 * 10**9), ("800 MB", 8 * 10**8), ("2KiB", 2048), ("1.5GiB", 3 << 29),
     ("7B", 7), ("3k", 3000)],
)  # fmt: skip
def test_byte_counts(text, count):
    assert values.byte_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "GB", "5XB", "-5GB", "1e3", "5iB", "0.1B", "9e99GB", "99999999999TB"])
def test_impossible_byte_counts_are_refused(text):
    with pytest.raises(click.BadParameter, match="5GB"):
        values.byte_count(text)


@given(st.text(max_size=12))
def test_any_text_is_a_byte_count_or_a_usage_error(text):
    with contextlib.suppress(click.BadParameter):
        assert values.byte_count(text) >= 1


def test_hints_are_split_at_the_last_equals_sign():
    stride = values.hint(values.whole(1), "--stride conv1=2")
    assert stride("a=b=2") == ("a=b", 2)
    for text in ("2", "=2", "conv1=0", "conv1=x", "conv1="):
        with pytest.raises(click.BadParameter, match="conv1=2") as error:
            stride(text)
        assert repr(text) in error.value.message


def test_overrides_are_split_at_the_last_colon():
    assert values.override("re:a:b=.*:method=cubic,taps=full,scale_h=2,scale_w=1.5,a=-0.75") == (
        "re:a:b=.*",
        {"method": "cubic", "taps": "full", "scale": (2, 1.5), "a": -0.75},
    )
    for text in ("method=cubic", ":method=cubic", "a:", "a:colour=red", "a:taps=7,taps=5", "a:taps=0", "a:gain=dB"):
        with pytest.raises(click.BadParameter) as error:
            values.override(text)
        assert repr(text) in error.value.message


@given(st.text(alphabet="0123456789-, x", max_size=12))
def test_any_text_is_classes_or_a_usage_error(text):
    with contextlib.suppress(click.BadParameter):
        ranges = values.classes(text)
        assert all(0 <= part.start < part.stop for part in ranges)
        assert len(ranges) == text.count(",") + 1


def test_classes_stay_ranges_however_long():
    assert values.classes("0, 3 - 5,9") == (range(1), range(3, 6), range(9, 10))
    assert values.classes("3-999999999") == (range(3, 10**9),)
    for text in ("", "9-0", "3-99999999999", "a", "1,,2", "-1", "٣"):
        with pytest.raises(click.BadParameter, match="0,3,5"):
            values.classes(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1" * 19, "٢"])
def test_impossible_seeds_are_refused(text):
    with pytest.raises(click.BadParameter, match="18 digits"):
        values.seed(text)


GOOD, BAD = ("HWIO", "oihw", "OIW", "IO"), ("O", "OIHH", "XY", "")


@pytest.mark.parametrize(("text", "ok"), [*((t, True) for t in GOOD), *((t, False) for t in BAD)])
def test_layouts(text, ok):
    if ok:
        assert values.layout(text) == text.upper()
    else:
        with pytest.raises(click.BadParameter):
            values.layout(text)


def test_grids_need_channels_and_one_to_three_axes():
    assert values.grid("512,7,7") == (512, 7, 7)
    for text in ("512", "512,0", "1,2,3,4,5", "a,b", "1.5,2", ""):
        with pytest.raises(click.BadParameter, match="512,7,7"):
            values.grid(text)
