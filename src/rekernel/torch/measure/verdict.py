"""Say in words what measured differences mean: the verdict of `verify`.

Scope: numbers and sentences. Not here: measuring (see `torch.measure.verification`). One number is fixed, `SAME`; all
other comparisons are with controls that were measured on the same pictures. docs/verify.md says what stands behind
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import Option
from .difference import Difference

Grade = Literal["same", "close", "changed", "no better"]

SAME = 1e-4
"""Up to this relative error two answers are the same. Of the 401 networks of benchmarks/zoo that were
compared, the 275 whose rescaled form is exact differ by at most 8.2e-6, which is rounding, the 126 others by at least
4.9e-4."""

FEW = 30
"""Fewer pictures than these are too few to count answers: one answer is more than 3 % of them. Their outputs decide."""

_PICTURES = Option("pass pictures of the new size", "pass --data with pictures of the new size")
_MODE = Option('mode="absorb"', "--mode absorb")


@dataclass(frozen=True)
class Verdict:
    """The meaning of a measurement.

    grade : 'same', the original's answers to the reduced pictures; 'close', no farther from them than the original's
        answers to pictures that were reduced in another way; 'changed', farther than that, but nearer than the
        untouched network at the new size; 'no better', as far as the untouched network or farther
    sentences : what the grade rests on, one sentence each, for a person
    """

    grade: Grade
    sentences: tuple[tuple[str | Option, ...], ...]

    @property
    def title(self) -> str:
        """The grade as a heading."""
        return TITLES[self.grade]

    def __str__(self) -> str:
        return " ".join("".join(map(str, parts)) for parts in self.sentences)

    def on_command_line(self) -> str:
        """The sentences for a user of the command, with options in place of arguments."""
        return " ".join(
            "".join(part.flag if isinstance(part, Option) else part for part in parts) for parts in self.sentences
        )


TITLES: dict[Grade, str] = {
    "same": "The same answers",
    "close": "Close: differs no more than another way of reducing the picture",
    "changed": "Changed: differs more than another way of reducing the picture",
    "no better": "No better than the untouched network",
}
"""The grade as a heading."""


def grade_of(
    converted: Difference, by_hand: Difference, untouched: Difference | None, count: int, *, pictures: bool
) -> Grade:
    """The grade of a rescaled network.

    For classifiers, answers to pictures are counted where there are at least `FEW`; all others are compared by their
    relative error.

    Examples
    --------
    >>> grade_of(Difference(0.2, 0.9), Difference(0.1, 0.92), Difference(1.0, 0.3), 100, pictures=True)
    'close'
    >>> grade_of(Difference(0.2, 1.0), Difference(0.1, 1.0), Difference(0.5, 1.0), 100, pictures=True)
    'close'
    >>> grade_of(Difference(0.2, 1.0), Difference(0.1, 1.0), Difference(0.5, 1.0), 10, pictures=True)
    'changed'
    >>> grade_of(Difference(0.2), Difference(0.1), Difference(1.0), 100, pictures=True)
    'changed'
    """
    if converted.error <= SAME and converted.kept in (None, 1.0):
        return "same"
    if pictures and converted.kept is not None and by_hand.kept is not None:
        if untouched is not None and untouched.kept is not None:
            # Where both keep as many answers, as all of a few pictures, the outputs decide.
            ours, theirs = (converted.kept, -converted.error), (untouched.kept, -untouched.error)
            if ours <= theirs:
                return "no better"
        if count >= FEW:
            near = converted.kept >= by_hand.kept - margin(converted.kept, by_hand.kept, count)
            return "close" if near else "changed"
        return "close" if converted.error <= by_hand.error else "changed"
    if untouched is not None and converted.error >= untouched.error:
        return "no better"
    return "close" if converted.error <= by_hand.error else "changed"


def margin(one: float, other: float, count: int) -> float:
    """Two standard errors of the difference of two shares of `count` pictures: less is chance.

    Examples
    --------
    >>> round(margin(0.9, 0.9, 200), 3), margin(1.0, 1.0, 10)
    (0.06, 0.0)
    """
    return 2 * math.sqrt((one * (1 - one) + other * (1 - other)) / count)


def verdict_of(
    converted: Difference,
    by_hand: Difference,
    untouched: Difference | None,
    count: int,
    *,
    pictures: bool,
    gives_image: bool,
    strided: bool,
) -> Verdict:
    """The grade, and sentences that say what it rests on.

    Parameters
    ----------
    converted, by_hand, untouched : Difference
        The rescaled network; the original on pictures that a cubic filter reduced; the original at the new size, None
        where it does not run there.
    count : int
        Number of pictures.
    pictures : bool
        False for noise that stands for pictures.
    gives_image : bool
        Whether the answers are a grid.
    strided : bool
        Whether strided layers of the rescaled network keep their stride on the finer grid.
    """
    grade = grade_of(converted, by_hand, untouched, count, pictures=pictures)
    counted = pictures and converted.kept is not None
    said: list[tuple[str | Option, ...]] = []
    if grade == "same":
        said.append(("The rescaled network gives the original's answers to the reduced pictures, up to rounding.",))
    else:
        said.append((_difference(converted, count, counted),))
        said.append((_control(grade, converted, by_hand, count, counted),))
    said.append((_untouched(grade, converted, untouched, counted),))
    if grade in ("changed", "no better"):
        if gives_image:
            said.append(
                (
                    "A network that gives an image back also answers to detail that the reduced picture lacks, so a "
                    "difference alone is not a loss; labels at the new size would tell.",
                )
            )
        elif strided:
            said.append(
                (
                    "Convert with ",
                    _MODE,
                    " for the original's answers to the reduced pictures.",
                )
            )
    if not pictures and grade != "same":
        said.append(("This was measured on smooth noise; ", _PICTURES, " for a verdict on them."))
    return Verdict(grade, tuple(said))


def _difference(converted: Difference, count: int, counted: bool) -> str:
    change = f"its outputs differ by {percent(converted.error)} of their size"
    if not counted or converted.kept is None:
        return f"Compared with the original on the reduced pictures, {change}."
    return (
        f"The rescaled network gives the original's answer to {round(converted.kept * count)} of {count} reduced "
        f"pictures ({percent(converted.kept)}); {change}."
    )


def _control(grade: Grade, converted: Difference, by_hand: Difference, count: int, counted: bool) -> str:
    if counted and by_hand.kept is not None and converted.kept is not None:
        other = f"{percent(by_hand.kept)} of its answers, and its outputs differ by {percent(by_hand.error)}"
        control = f"reduced by a cubic filter instead, the original itself keeps {other}."
        if count < FEW and grade != "no better":
            ours, theirs = (
                f"{round(found.kept * count)} of {count}" for found in (converted, by_hand) if found.kept is not None
            )
            return (
                f"These are too few pictures to tell ({count}): {ours} against {theirs} may be chance, so the outputs "
                f"decide. For comparison: {control}"
            )
        return f"{'That is as many, up to chance' if grade == 'close' else 'For comparison'}: {control}"
    other = percent(by_hand.error)
    if grade == "close":
        return f"Reducing the pictures by a cubic filter instead changes the original's outputs by {other}, no less."
    return f"Reducing the pictures by a cubic filter instead changes the original's outputs by {other}."


def _untouched(grade: Grade, converted: Difference, untouched: Difference | None, counted: bool) -> str:
    if untouched is None:
        return "The untouched network does not run at the new size."
    if counted and untouched.kept is not None:
        what = f"keeps {percent(untouched.kept)} of the answers"
    else:
        what = f"is off by {percent(untouched.error)}"
    if grade == "no better":
        return f"The untouched network {what} at the new size, so nothing is gained here."
    return f"The untouched network {what} at the new size."


def percent(share: float) -> str:
    """A share in percent, with three digits at most.

    Examples
    --------
    >>> percent(0.0712), percent(0.9981), percent(1.0), percent(0.00002), percent(1.2345)
    ('7.12 %', '99.8 %', '100 %', '0.002 %', '123 %')
    """
    return f"{float(f'{100 * share:.3g}'):g} %"
