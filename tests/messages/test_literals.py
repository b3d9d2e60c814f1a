"""The words that type checkers know are the words that the library takes, and each list is written once."""

from __future__ import annotations

import typing

import pytest

from rekernel.plan.changes import FORMS, Form, LayerMode, NetworkMode
from rekernel.planning.by_name import plan_checkpoint
from rekernel.planning.roles import ABSORB, AUTO, MODES, NETWORK_MODES, SUPERSAMPLE
from rekernel.planning.settings import PlanningOptions
from rekernel.resampling.arrays import MATRIX_LAYOUTS, ORDERS, SIDES, MatrixLayout, Order, Side
from rekernel.resampling.methods import (
    ALIASES,
    ALL_METHODS,
    AUTO_METHOD,
    GAINS,
    GRID_METHODS,
    KERNEL_METHODS,
    READING_FILTERS,
    TAPS_RULES,
    Alias,
    Gain,
    GridMethod,
    KernelMethod,
    Method,
    ReadingFilter,
    TapsRule,
)

WORDS = [
    (KernelMethod, KERNEL_METHODS), (GridMethod, GRID_METHODS), (Alias, ALIASES), (Gain, GAINS),
    (Method, (AUTO_METHOD, *ALL_METHODS, *ALIASES)), (ReadingFilter, READING_FILTERS), (TapsRule, TAPS_RULES),
    (NetworkMode, NETWORK_MODES), (LayerMode, MODES), (Form, FORMS), (Order, ORDERS), (Side, SIDES),
    (MatrixLayout, MATRIX_LAYOUTS),
]  # fmt: skip


@pytest.mark.parametrize(("literal", "words"), WORDS)
def test_a_literal_is_its_list(literal, words):
    assert set(typing.get_args(literal)) == set(words)


def test_the_lists_agree_with_each_other():
    assert set(NETWORK_MODES) == {AUTO, *MODES} and set(MODES) == {SUPERSAMPLE, ABSORB}
    assert set(READING_FILTERS) == set(KERNEL_METHODS) - {"dilate", "optimal-filter"}
    assert set(ALIASES.values()) <= set(KERNEL_METHODS) & set(GRID_METHODS)


def test_the_words_of_the_samplers_are_their_lists():
    pytest.importorskip("torch")
    from rekernel.diffusion.formulas import low_band, predictions
    from rekernel.diffusion.guidance.settings import PREDICTORS, Predictor
    from rekernel.diffusion.positions.frequencies import METHODS, PositionMethod

    assert set(typing.get_args(predictions.Prediction)) == set(predictions.KINDS)
    assert typing.get_args(low_band.Reduce) == low_band.REDUCE and typing.get_args(low_band.Enlarge) == low_band.ENLARGE
    assert typing.get_args(Predictor) == PREDICTORS and typing.get_args(PositionMethod) == METHODS


def test_convert_takes_the_words_of_plan_checkpoint():
    asked, options = typing.get_type_hints(plan_checkpoint), typing.get_type_hints(PlanningOptions)
    assert set(options) <= set(asked)
    for name in ("method", "taps", "gain", "mode", "reading_filter"):
        assert options[name] == asked[name], name


@pytest.mark.slow
def test_a_type_checker_refuses_a_misspelt_word_and_shows_the_words(tmp_path):
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "user.py"
    file.write_text(
        "import numpy as np\nimport rekernel as rk\n"
        "rk.resample_conv(np.ones((1, 1, 3, 3)), 2, 'cubik')\n"
        "rk.convert('a', 'b', scale=2, mode='grow')\n"
        "rk.plan_checkpoint('a', 2, method='bicubic', gain='dc', hints=rk.Hints(mode={'a': 'absorb'}))\n"
        "reveal_type(rk.plan_checkpoint)\n"
    )
    out, _, code = api.run([str(file), "--no-incremental", "--follow-imports=silent", "--ignore-missing-imports"])
    assert code == 1, out
    assert "user.py:3: error" in out and "cubik" in out and "user.py:4: error" in out and "user.py:5" not in out
    assert "Literal['dc'] | Literal['ratio'] | Literal['none']" in out or "Literal['dc', 'ratio', 'none']" in out
