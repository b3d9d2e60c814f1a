"""Parse the values of options: scales, sizes, byte counts, dtypes, hints, overrides, seeds and classes.

Each function takes the typed text and returns a value, or raises `click.BadParameter` with the text and an example.
The lists of names are those of the library, which is imported when such a value is parsed and not before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import click

from . import names

Scale = float | tuple[float, ...]

_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BYTES = re.compile(r"(\d+\.?\d*|\.\d+)\s*([KMGT]?)(i?)(B?)", re.ASCII | re.IGNORECASE)
_MAX_AXES = 3
_LARGEST_TYPED = 16  # a larger factor is a size; any ratio can be given as --from and --to


def scale(text: str) -> Scale:
    """'2' -> 2, '1x2x2' -> (1, 2, 2): one number, or one for frames (or depth), height and width.

    Two different numbers are refused, since sizes have the width first, and the axes of a tensor the height.

    Examples
    --------
    >>> scale("2"), scale("1.5"), scale("1x2x2")
    (2, 1.5, (1, 2, 2))
    """
    try:
        factors = tuple(map(factor, re.split("[xX]", text)))
    except click.BadParameter:
        raise click.BadParameter(
            f"{text!r} is not a scale; give a finite number above 0, such as 2 or 1.5, or for a video 1x2x2"
        ) from None
    if len(factors) > _MAX_AXES:
        raise click.BadParameter(f"{text!r} has {len(factors)} factors; give one, or frames, height and width: 1x2x2")
    if max(factors) > _LARGEST_TYPED:
        sides = [f"{n:g}" for n in factors[-2:]]
        meant = "x".join(sides if len(sides) == 2 else sides * 2)
        raise click.BadParameter(f"{text!r} is new pixels per old pixel; did you mean --to {meant}?")
    if len(factors) == 2 and factors[0] != factors[1]:
        one, other = (f"{n:g}" for n in factors)
        raise click.BadParameter(
            f"{text!r} does not tell the width from the height; write --scale-w {one} --scale-h {other}, or --scale-w "
            f"{other} --scale-h {one} (in --set: scale_w=, scale_h=)"
        )
    return factors if len(factors) > 1 else factors[0]


def factor(text: str) -> float:
    """Parse the scale of one axis: a number above 0.

    Examples
    --------
    >>> factor("2"), factor("1.5")
    (2, 1.5)
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{text!r} is not a scale; give a finite number above 0, such as 2 or 1.5")
    return int(value) if value.is_integer() else value


def size(text: str) -> tuple[int, int]:
    """'1024x768', WIDTHxHEIGHT of an image -> (height, width), the order of the axes of a tensor; '384' is a square.

    Examples
    --------
    >>> size("1024x768"), size("384")
    ((768, 1024), (384, 384))
    """
    match = re.fullmatch(r"(\d{1,9})(?:[xX](\d{1,9}))?", text, re.ASCII)
    if match is None or 0 in (sides := (int(match[2] or match[1]), int(match[1]))):
        raise click.BadParameter(f"{text!r} is not an image size; write WIDTHxHEIGHT in pixels: 1024x768")
    return sides


def taps(text: str) -> int | str:
    """Parse a number of taps, 'full' or 'same-extent'."""
    if text in names.taps_rules():
        return text
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or int(text) < 1:
        from rekernel.text import near

        words = ", or ".join(near(text, names.taps_rules()) or names.taps_rules())
        raise click.BadParameter(f"{text!r} is not a number of taps; give a number such as 7, or {words}")
    return int(text)


def byte_count(text: str) -> int:
    """'5GB' -> 5000000000, '1.5GiB', '800MB', or a plain number of bytes.

    Examples
    --------
    >>> byte_count("5GB"), byte_count("1.5KiB"), byte_count("4096")
    (5000000000, 1536, 4096)
    """
    match = _BYTES.fullmatch(text.strip())
    exponent = "KMGT".find(match[2].upper()) + 1 if match and match[2] else 0
    value = float(match[1]) * (1024 if match[3] else 1000) ** exponent if match else 0.0
    if match is None or (match[3] and not match[2]) or not 1 <= value < 2**63:
        raise click.BadParameter(f"{text!r} is not a size in bytes; write 5GB, 800MB, 1.5GiB or a number of bytes")
    return int(value)


def part(text: str) -> str:
    """Check a part of a conversion, such as '3/16'.

    Examples
    --------
    >>> part("3/16")
    '3/16'
    """
    from rekernel.conversion.workers.part import Part
    from rekernel.errors import RekernelError

    try:
        Part.of(text)
    except RekernelError:
        raise click.BadParameter(f"{text!r} is not a part; write 3/16 for the third of sixteen") from None
    return text


def dtype(text: str) -> str:
    """Parse a dtype, and return the name in safetensors; PyTorch's names and common short names are accepted.

    Examples
    --------
    >>> dtype("bf16"), dtype("torch.float16")
    ('BF16', 'F16')
    """
    from rekernel.checkpoint.dtypes import FLOATS, target_dtype
    from rekernel.errors import RekernelError
    from rekernel.text import choices

    try:
        return target_dtype(text.removeprefix("torch."))
    except RekernelError:
        raise click.BadParameter(f"{text!r} is not a dtype to write; {choices(text, FLOATS)}") from None


def method(text: str) -> str:
    """Parse the name of a method."""
    from rekernel.errors import RekernelError
    from rekernel.resampling.methods import canonical_method
    from rekernel.text import choices

    try:
        canonical_method(text, names.methods())
    except RekernelError:
        raise click.BadParameter(f"{text!r} is not a method; {choices(text, names.methods())}") from None
    return text


def number(text: str) -> float:
    """Parse a finite number."""
    value = float(text.removeprefix("-")) if _NUMBER.fullmatch(text.removeprefix("-")) else math.nan
    if not math.isfinite(value):
        raise click.BadParameter(f"{text!r} is not a number; give a number such as -0.5")
    return -value if text.startswith("-") else value


def grid(text: str) -> tuple[int, ...]:
    """Parse '512,7,7': channels, then the size along each axis."""
    sizes = text.split(",")
    if not 2 <= len(sizes) <= 1 + _MAX_AXES or not all(re.fullmatch(r"[1-9]\d{0,8}", s, re.ASCII) for s in sizes):
        raise click.BadParameter(f"{text!r} is not a grid; write channels, then the size along each axis: 512,7,7")
    return tuple(map(int, sizes))


def patches(text: str) -> tuple[int, ...]:
    """Parse '16,8': the number of patches along each axis.

    Examples
    --------
    >>> patches("16,8")
    (16, 8)
    """
    sizes = text.split(",")
    if len(sizes) > _MAX_AXES or not all(re.fullmatch(r"[1-9]\d{0,8}", s, re.ASCII) for s in sizes):
        raise click.BadParameter(f"{text!r} is not a grid; write the number of patches along each axis: 16,8")
    return tuple(map(int, sizes))


def whole(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers of at least `least`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or int(text) < least:
            raise click.BadParameter(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def padding(text: str) -> int | tuple[int, int]:
    """Parse '1', or '0,1' if the two sides differ.

    Examples
    --------
    >>> padding("1"), padding("0,1")
    (1, (0, 1))
    """
    sides = tuple(map(whole(0), text.split(",")))
    if len(sides) > 2:
        raise click.BadParameter(f"{text!r} has {len(sides)} sides; give one number, or left,right: 0,1")
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def choice(known: Callable[[], Sequence[str]]) -> Callable[[str], str]:
    """Return a parser that accepts only the names that `known` returns."""

    def parse(text: str) -> str:
        if text not in known():
            from rekernel.text import choices

            raise click.BadParameter(f"{text!r} is unknown; {choices(text, known())}")
        return text

    return parse


def layout(text: str) -> str:
    """Parse the axes of a weight, one letter per axis: 'HWIO'."""
    letters = text.upper()
    if len(set(letters)) != len(letters) or not {"O", "I"} <= set(letters) <= set("OIDHW"):
        raise click.BadParameter(
            f"{text!r} is not a layout; write one letter per axis, including O and I: OIHW, HWIO, OIW, IO"
        )
    return letters


def hint(parse: Callable[[str], Any], example: str, *, bare: bool = False) -> Callable[[str], tuple[str, Any]]:
    """Return a parser of NAME=VALUE, split at the last '='; with `bare`, a VALUE without NAME is for every tensor.

    Examples
    --------
    >>> hint(whole(1), "conv1=2")("conv1=2"), hint(layout, "HWIO", bare=True)("HWIO")
    (('conv1', 2), ('*', 'HWIO'))
    """

    def parse_hint(text: str) -> tuple[str, Any]:
        name, equals, value = text.rpartition("=")
        if not equals and bare:
            name = "*"
        if not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE; for example, write {example}")
        try:
            return name, parse(value)
        except click.BadParameter as error:
            raise click.BadParameter(f"{text!r}: {error.message} (for example {example})") from None

    return parse_hint


SETTINGS: dict[str, Callable[[str], Any]] = {
    "scale": scale,
    "method": method,
    "taps": taps,
    "gain": choice(names.gains),
    "a": number,
    "smoothness": number,
    "reading_filter": choice(names.reading_filters),
    "scale_w": factor,
    "scale_h": factor,
}


def settings_of_layers() -> dict[str, Sequence[str]]:
    """Return the words that each setting of --set may have, for completion; none for numbers."""
    words = {"method": names.methods(), "taps": names.taps_rules(), "gain": names.gains()}
    words["reading_filter"] = names.reading_filters()
    return {name: words.get(name, ()) for name in SETTINGS}


def override(text: str) -> tuple[str, dict[str, Any]]:
    """Parse 'PATTERN:method=cubic,taps=7', split at the last ':' because a pattern may contain one.

    Examples
    --------
    >>> override("re:layer[12].*:method=cubic,taps=7")
    ('re:layer[12].*', {'method': 'cubic', 'taps': 7})
    """
    pattern, _, settings = text.rpartition(":")
    values: dict[str, Any] = {}
    for setting in settings.split(","):
        key, equals, value = setting.partition("=")
        key = key.strip()
        if pattern and equals and key not in SETTINGS:
            near = get_close_matches(key, SETTINGS, n=1)
            meant = f"; did you mean {near[0]}?" if near else f"; it is one of {', '.join(SETTINGS)}"
            raise click.BadParameter(f"{text!r}: {key!r} is not a setting{meant}")
        if not pattern or not equals or key not in SETTINGS or key in values:
            raise click.BadParameter(
                f"{text!r} is not PATTERN:NAME=VALUE,...; for example, write 'layer1.*:method=cubic,taps=7' "
                f"with each of {', '.join(SETTINGS)} at most once"
            )
        try:
            values[key] = SETTINGS[key](value.strip())
        except click.BadParameter as error:
            raise click.BadParameter(f"{text!r}: {key}: {error.message}") from None
    sides = [values.pop(side, None) for side in ("scale_h", "scale_w")]
    if any(side is not None for side in sides):
        if None in sides or "scale" in values:
            raise click.BadParameter(f"{text!r}: scale_w and scale_h go together, and not with scale")
        values["scale"] = tuple(sides)
    return pattern, values


def shape(text: str) -> tuple[int, ...]:
    """Parse '3x224x224', the shape of an input without the batch -> (3, 224, 224).

    Examples
    --------
    >>> shape("1x16x16")
    (1, 16, 16)
    """
    if not re.fullmatch(r"\d{1,6}([xX]\d{1,6}){1,3}", text, re.ASCII) or 0 in (
        sizes := tuple(int(part) for part in re.split("[xX]", text))
    ):
        raise click.BadParameter(f"{text!r} is not an input shape; write channels and pixels: 3x224x224")
    return sizes


def numbers(text: str) -> tuple[float, ...]:
    """Parse '0.485,0.456,0.406', or one number.

    Examples
    --------
    >>> numbers("0.5"), numbers("0.1,0.2")
    ((0.5,), (0.1, 0.2))
    """
    return tuple(number(part.strip()) for part in text.split(","))


def seed(text: str) -> int:
    """Parse a whole number that every generator accepts."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise click.BadParameter(f"{text!r} is not a seed; give a whole number of at most 18 digits")
    return int(text)


def classes(text: str) -> tuple[range, ...]:
    """Parse '0, 3-5' into ranges; a number becomes a range of length 1.

    Examples
    --------
    >>> classes("0, 3-5")
    (range(0, 1), range(3, 6))
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise click.BadParameter(
                f"{text!r} is not a list of classes; write numbers and increasing ranges: 0,3,5 or 0-9"
            )
        found.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(found)
