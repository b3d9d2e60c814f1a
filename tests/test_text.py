"""Sizes and scales as text."""

import pytest

from rekernel.text import byte_size, dims, scale_text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (1_719_000_000, "1.7 GB"),
        (10**18, "1.0 EB"), (2**70, "1,180.6 EB"),
    ],
)  # fmt: skip
def test_bytes_have_a_unit_at_every_size(nbytes, text):
    assert byte_size(nbytes) == text


@pytest.mark.parametrize("nbytes", [1, 999, 1000, 123_456, 10**9, 7 * 10**17])
def test_bytes_read_as_in_progress_bars(nbytes):
    from rich.filesize import decimal

    assert byte_size(nbytes) == decimal(nbytes)


def test_scales_and_dims_are_joined_as_they_are_typed():
    scales = {2: "2", 1.5: "1.5", (2.0, 1.5): "2x1.5", (1.0, 2.0, 2.0): "1x2x2", "auto": "auto"}
    assert {scale: scale_text(scale) for scale in scales} == scales
    assert (dims([8, 4]), dims([])) == ("8x4", "scalar")
