"""Find every place where one small change makes a mutant, with the operators of cosmic-ray.

A mutant is one change of one module: another comparison, another arithmetic operator, a number one larger or smaller,
a condition turned around, a decorator taken away. Changes that Python does not see (in annotations and docstrings) are
left out, and so are mutants that do not compile.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import Visitor
from cosmic_ray.operators.provider import OperatorProvider

SKIPPED = ("VariableReplacer", "VariableInserter")  # they need a name of a variable
_BITS = ("BitAnd", "BitOr", "BitXor", "LShift", "RShift")


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    path : path of the module in the repository
    line : number of the first changed line
    operator : name of cosmic-ray's operator
    before, after : the changed line before and after
    name : a short name, which stays where other lines of the module change
    code : the whole module, changed
    """

    path: str
    line: int
    operator: str
    before: str
    after: str
    name: str
    code: str


@dataclass(frozen=True)
class _Site:
    """One operator at its n-th place in a module."""

    path: str
    operator: str
    number: int


def sample(root: Path, paths: list[str], count: int) -> list[Mutant]:
    """A fixed choice among all mutants of some modules.

    Each place counts once for each kind of change, however many forms it has there: comparisons have many, numbers
    have two. The choice goes by a digest of the line and the column, so changes elsewhere in a module leave it.

    Parameters
    ----------
    root : Path
        Folder of the repository.
    paths : list of str
        Modules, by their paths in the repository.
    count : int
        How many mutants, at most.
    """
    texts = {path: (root / path).read_text() for path in paths}
    meanings = {path: _meaning(text) for path, text in texts.items()}
    places: dict[str, list[tuple[str, _Site]]] = {}
    for path, text in texts.items():
        for place, site in _sites(path, text):
            places.setdefault(place, []).append((_digest(f"{place} {site.operator} {site.number % 2}"), site))
    chosen: list[Mutant] = []
    for place in sorted(places):
        if len(chosen) == count:
            break
        for name, site in sorted(places[place], key=lambda pair: pair[0]):
            code = _changed(texts[site.path], site)
            if _meaning(code) not in (meanings[site.path], None):
                chosen.append(_mutant(texts[site.path], code, site, name))
                break
    return sorted(chosen, key=lambda mutant: (mutant.path, mutant.line, mutant.name))


class _Places(Visitor):  # type: ignore[misc]
    """List the places of one operator."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        self.found: list[tuple[int, int]] = []

    def visit(self, node: Any) -> Any:
        self.found += [start for start, _ in self.operator.mutation_positions(node)]
        return node


class _Change(Visitor):  # type: ignore[misc]
    """Apply one operator at its n-th place in a module."""

    def __init__(self, operator: Any, number: int) -> None:
        self.operator, self.number, self.seen = operator, number, 0

    def visit(self, node: Any) -> Any:
        for index, _ in enumerate(self.operator.mutation_positions(node)):
            self.seen += 1
            if self.seen - 1 == self.number:
                return self.operator.mutate(node, index)
        return node


def _sites(path: str, text: str) -> Iterator[tuple[str, _Site]]:
    """All places of all operators, each with a digest that names the place."""
    lines = text.splitlines()
    tree = parso.parse(text)
    for name, operator in ((name, OperatorProvider()[name]) for name in OperatorProvider() if _used(name)):
        places = _Places(operator())
        places.walk(tree)
        for number, (line, column) in enumerate(places.found):
            repeated = lines[: line - 1].count(lines[line - 1])
            key = (path, name.split("_")[0], lines[line - 1], str(repeated), str(column))
            yield _digest("\0".join(key)), _Site(path, name, number)


def _used(operator: str) -> bool:
    """Whether an operator makes changes that a program could contain.

    Left out: bits of numbers, which end every computation with floats at once, and `is` for `==`, which is often equal.
    """
    _kind, *names = operator.split("_")
    new = names[-1] if names else ""
    return not (operator in SKIPPED or new in _BITS or (new in ("Is", "IsNot") and not names[0].startswith("Is")))


def _changed(text: str, site: _Site) -> str:
    code = _Change(OperatorProvider()[site.operator](), site.number).walk(parso.parse(text)).get_code()
    assert isinstance(code, str)
    return code


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _mutant(text: str, code: str, site: _Site, name: str) -> Mutant:
    old, new = text.splitlines(), code.splitlines()
    line = next(i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1])
    return Mutant(site.path, line + 1, site.operator, old[line].strip(), new[line].strip(), name, code)


class _Bare(ast.NodeTransformer):
    """Take away what does nothing when a module runs."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant("")
        self.generic_visit(node)
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.args, node.posonlyargs = [*node.posonlyargs, *node.args, *node.kwonlyargs], []  # a `*` that became a `/`
        node.defaults, node.kwonlyargs = [*node.defaults, *filter(None, node.kw_defaults)], []
        node.kw_defaults = []
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        if isinstance(node.test, ast.UnaryOp) and getattr(node.test.operand, "id", "") == "TYPE_CHECKING":
            return None
        self.generic_visit(node)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else node


def _meaning(code: str) -> str | None:
    """What Python reads of a module; None if the module does not compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "mutant", "exec")
        return ast.dump(_Bare().visit(ast.parse(code)))
    except (SyntaxError, ValueError):
        return None
