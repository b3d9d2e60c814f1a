"""Say what a name may mean that a public package does not have: a name nearby, or one of another public package.

Scope: names. Not here: values of arguments (see `text`).
"""

from __future__ import annotations

import ast
from pathlib import Path

from ..text import near

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("rekernel", "rekernel.torch", "rekernel.diffusion", "rekernel.onnx", "rekernel.hub")


def missing_name(package: str, name: str) -> AttributeError:
    """The error for a name that a package does not have.

    Parameters
    ----------
    package : str
        Where the name was looked up: 'rekernel.torch'.
    name : str

    Examples
    --------
    >>> str(missing_name("rekernel", "rescale"))
    "module 'rekernel' has no attribute 'rescale'; did you mean rekernel.torch.rescale?"
    >>> str(missing_name("rekernel.torch", "resacle"))
    "module 'rekernel.torch' has no attribute 'resacle'; did you mean rekernel.torch.rescale?"
    """
    said = f"module {package!r} has no attribute {name!r}"
    if name.startswith("_"):  # asked for by tools, not typed
        return AttributeError(said, name=name)
    if f"{package}.{name}" in _PACKAGES:
        return AttributeError(f"{said}; import it first: import {package}.{name}", name=name)
    names = {each: _public(each) for each in (package, *_PACKAGES)}
    same = [each for each in names if name in names[each]]
    found = [f"{each}.{name}" for each in same] or [f"{each}.{n}" for each in names for n in near(name, names[each])]
    return AttributeError(f"{said}; did you mean {found[0]}?" if found else said, name=name)


def _public(package: str) -> list[str]:
    """The names in `__all__` of a package, read from its source: importing the package may take torch."""
    path = _ROOT.joinpath(*package.split(".")[1:], "__init__.py")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):  # not installed as files
        return []
    lists = [
        node.value for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]  # fmt: skip
    return [str(name) for each in lists for name in ast.literal_eval(each)]
