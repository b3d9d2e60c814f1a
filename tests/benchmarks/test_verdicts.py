"""The measurements behind the verdicts of `verify`: fixed numbers stand in gaps, and the page repeats the results."""

import json
from pathlib import Path

from rekernel.diffusion.measure.denoiser_verification import SMOOTHED
from rekernel.torch.measure.difference import Difference
from rekernel.torch.measure.verdict import FAR, SAME, grade_of

ROOT = Path(__file__).resolve().parents[2]
FOUND = json.loads((ROOT / "benchmarks" / "real" / "results" / "verdicts.json").read_text())
PAGE = (ROOT / "docs" / "verify.md").read_text()


def test_the_same_stands_in_the_gap_between_exact_and_approximate_networks():
    zoo = json.loads((ROOT / "benchmarks" / "zoo" / "results" / "zoo.json").read_text())["rows"]
    rows = [row["default"] for row in zoo if row["default"].get("error") is not None]
    errors = {kind: [row["error"] for row in rows if row["outcome"] == kind] for kind in ("exact", "approximate")}
    assert max(errors["exact"]) < SAME / 10 < SAME * 4 < min(errors["approximate"])
    prose = " ".join(PAGE.split())
    assert f"the {len(errors['exact'])} whose" in prose and f"the {len(errors['approximate'])} others" in prose


def test_stored_grades_are_those_that_the_figures_give():
    for row in FOUND["rows"]:
        untouched = None if row["untouched_kept"] is None else Difference(9.0, row["untouched_kept"])
        by_hand = Difference(row["by_hand_error"], row["by_hand_kept"])
        given = grade_of(Difference(row["error"], row["kept"]), by_hand, untouched, FOUND["setting"]["pictures"],
                         pictures=True)  # fmt: skip
        assert given == row["grade"], row
    close = [row["error"] / row["by_hand_error"] for row in FOUND["rows"] if row["grade"] == "close"]
    assert 2 < max(close) < 2.36 < 0.6 * FAR and len(close) == 29  # as the comment on FAR says


def test_close_loses_less_than_changed_in_the_middle_and_the_page_has_the_table():
    grades = FOUND["grades"]
    assert grades["same"]["most"] == 0 and grades["close"]["median"] < 1 < 10 < grades["changed"]["median"]
    for grade, row in grades.items():
        line = f"| {grade} | {row['rows']} | {row['least']:.1f} | {row['median']:.1f} | {row['most']:.1f} |"
        assert line in PAGE


def test_the_share_of_smoothed_noise_stands_in_a_gap_and_the_page_has_the_distances():
    smoothed = [row for row in FOUND["diffusion"] if row["layers"] == "all" and row["method"] != "dilate"]
    others = [row for row in FOUND["diffusion"] if row not in smoothed]
    assert all(at["above"] > 1.4 * SMOOTHED for row in smoothed for at in row["times"])
    assert all(max(at["above"], at["untouched_above"]) < 0.6 * SMOOTHED for row in others for at in row["times"])
    for row in FOUND["diffusion"]:
        if row["frechet"] is not None:
            assert f"| {row['method']}, {row['layers']} | {row['grade']} | {row['frechet']:.0f} |" in PAGE
