"""Find out whether the names in a file and in a model differ by a prefix alone.

Scope: names. Not here: the names that transformers gives in files (see `torch.files.transformers_names`).
"""

from __future__ import annotations

from collections.abc import Collection

from ...escape import shown

_MOST = 0.8
"""Share of the names that a prefix has to explain: a file may lack buffers, and hold a few other tensors."""


def prefix_between(long: Collection[str], short: Collection[str]) -> str:
    """The prefix, its last dot included, with which most of the short names are most of the long names; empty if none.

    Examples
    --------
    >>> prefix_between({"net.0.weight", "net.0.bias"}, {"0.weight", "0.bias"})
    'net.'
    >>> prefix_between({"0.weight", "0.bias"}, {"0.weight", "0.bias"})
    ''
    """
    for name in short:
        found = sorted({other[: -len(name)] for other in long if other.endswith(f".{name}")}, key=len)
        for prefix in found:
            explained = sum(prefix + each in long for each in short)
            if explained >= _MOST * len(short) and sum(n.startswith(prefix) for n in long) >= _MOST * len(long):
                return prefix
        if found:  # the other names would give no other prefix
            break
    return ""


def prefix_hint(there: Collection[str], model: Collection[str]) -> str:
    """What to do where the names of a file have a prefix that a model does not have, or the other way round.

    Examples
    --------
    >>> prefix_hint({"net.0.weight"}, {"0.weight"})
    "its names begin with 'net.', which those of the model do not; pass prefix='net.'"
    >>> prefix_hint({"0.weight"}, {"module.0.weight"})
    "the names of the model begin with 'module.', which those of the file do not; load into model.module"
    """
    if prefix := prefix_between(there, model):
        return f"its names begin with {shown(prefix)!r}, which those of the model do not; pass prefix={shown(prefix)!r}"
    if prefix := prefix_between(model, there):
        return (
            f"the names of the model begin with {shown(prefix)!r}, which those of the file do not; load into "
            f"model.{shown(prefix[:-1])}"
        )
    return ""
