"""Numbers in a plan that no planning gives: refused when the plan is read, before any file is touched."""

from __future__ import annotations

import pytest

from rekernel.errors import RekernelError
from rekernel.plan.serialization import change_of


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("scale", 1e-308, "scale of 1e-308 is below"),
        ("scale", 1e300, "is above 1024"),
        ("phase", 1e6, "not a number from -1 to 1"),
        ("a", 1e308, "not a number from -16 to 16"),
        ("smoothness", 1e6, "not at least 0 and below 1"),
        ("smoothness", True, "not at least 0"),
        ("method", "pinv-linear", "not one of"),
        ("axis", 3, "does not fit axis 3"),
        ("axis", -1, "does not fit axis -1"),
        ("dilation", 1 << 30, "matrix of more than"),
        ("dilation", 24755, "a kernel over 49511 pixels at scale 2 is above 4096 taps"),
        ("geometry", "grid", "a grid of 3->11 has a scale of"),
    ],
)
def test_numbers_that_no_planning_gives_are_refused(field, value, words):
    entry = {"axis": 2, "old": 3, "new": 11, "geometry": "kernel", "scale": 2.0, "method": "cubic", "gain": "dc"}
    change = {
        "name": "a.weight", "dtype": "F32", "shape": [8, 4, 3], "new_shape": [8, 4, 11], "kind": "conv", "reason": "",
        "view": [8, 4, 3], "operators": [entry | {field: value}],
    }  # fmt: skip
    with pytest.raises(RekernelError, match=words):
        change_of(change)
