"""Plans decide what those of 0.1.0 decided: every tensor, operator and padding of it, by names, by trace and for ONNX.

`make_golden` made the text files with the code of 0.1.0. It also compares what plans say, which these tests do not.
"""

from __future__ import annotations

import pytest

for library in ("torch", "diffusers", "transformers", "onnx"):
    pytest.importorskip(library)

from .make_golden import GROUPS, difference, stored, texts  # noqa: E402 - after the libraries are known to be there


@pytest.mark.parametrize("group", GROUPS)
def test_plans_decide_what_they_decided(group):
    decisions, _ = texts(group)
    lines = difference(stored(group)[0], decisions)
    assert not lines, "\n".join(lines)
