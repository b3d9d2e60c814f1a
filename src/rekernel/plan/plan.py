"""Plan: the changes to every tensor of a checkpoint, as JSON and as a table.

Scope: a plan, its JSON document and its table. Not here: the entries of the JSON (see `plan.serialization`), files
(see `conversion`), and which tensors to choose (see `planning`). Format: docs/recipe.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from ..checkpoint.strict_json import strict_text
from ..errors import RekernelError
from ..escape import inert, shown
from ..messages.arguments import check_instance
from ..messages.display import Displayed, Table, notes_table
from ..messages.note import from_json, to_json
from ..text import counted, dims
from .changes import LayerChange, ModuleChange
from .description import described
from .serialization import change_of, facts_of, facts_written, filled, module_of, sparse, sparse_module

SCHEMA = "rekernel.plan"
VERSION = 1
_FEW = 12
_FIELDS = {
    "schema", "version", "family", "options", "warnings", "changes", "modules", "origin", "scale", "size", "form",
    "checked",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Plan(Displayed):
    """All changes that a conversion makes to a checkpoint.

    changes : one `LayerChange` per tensor
    family : name of the architecture recognised from the tensor names, or empty
    options : requested options (scale, method, ...), for people; no code depends on them
    warnings : notes, each naming an ambiguity and the option that resolves it
    modules : changes of layers without tensors; the names in a checkpoint do not show these layers
    origin : source of the plan: the 'names' and shapes of a checkpoint, the 'trace' of a module (or a module into which
        a file was loaded), or an 'onnx' graph
    scale : requested number of new pixels per old pixel; a tuple has one number per spatial axis
    size : sizes of the spatial axes of the traced input, before rescaling; empty where nothing was traced
    form : requested form of the layers ('dense', 'factored', 'auto'); empty where nothing was traced
    checked : what a run of the rescaled model beside the trained one found; empty where neither was run
    """

    changes: tuple[LayerChange, ...]
    family: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    modules: tuple[ModuleChange, ...] = ()
    origin: Literal["names", "trace", "onnx"] = "names"
    scale: tuple[float, ...] | float = 1.0
    size: tuple[int, ...] = ()
    form: str = ""
    checked: str = ""

    def __post_init__(self) -> None:
        scale = self.scale
        floats = tuple(map(float, scale)) if isinstance(scale, tuple | list) else float(scale)
        object.__setattr__(self, "scale", floats)

    @property
    def changed(self) -> tuple[LayerChange, ...]:
        """The changes of tensors that do not stay unchanged."""
        return tuple(change for change in self.changes if not change.kept)

    def counted(self) -> str:
        """How many tensors change, and how many keep their values in a layer that changes around them.

        Examples
        --------
        >>> Plan((LayerChange.unchanged("a.bias", "F32", (4,), "bias or norm"),)).counted()
        '0 of 1 tensor changes'
        """
        around = sum(bool(change.factors) for change in self.changed)
        count, total = len(self.changed) - around, len(self.changes)
        text = f"{count:,} of {total:,} tensor{' changes' if total == 1 else 's change'}"
        return f"{text}, and the layers of {around:,} more, which keep their values" if around else text

    @property
    def empty(self) -> bool:
        """Whether the plan changes no tensor and no module."""
        return not self.changed and not self.modules

    @property
    def resamples(self) -> bool:
        """Whether the image is resampled in front of the model, whose weights stay."""
        return any(module.kind == "resample" for module in self.modules)

    @property
    def recognised(self) -> bool:
        """Whether the tensor names identified the architecture, so that the padding of the layers is known."""
        return self.origin == "names" and bool(self.family)

    def to_json(self, *, kept: bool = True, indent: int | None = 2) -> str:
        """Return JSON text that `from_json` reads back. The keys are sorted, so equal plans give equal text.

        Parameters
        ----------
        kept : bool
            Also list the tensors that stay unchanged. A tensor that is not listed stays unchanged.
        """
        changes = self.changes if kept else self.changed
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "family": self.family,
            "options": self.options,
            "warnings": to_json(self.warnings),
            "changes": [sparse(change) for change in changes],
            "modules": [sparse_module(module) for module in self.modules],
            **facts_written(self.origin, self.scale, self.size, self.form),
        }
        if not self.modules:
            del document["modules"]
        if self.checked:
            document["checked"] = self.checked
        separators = (",", ":") if indent is None else None
        return json.dumps(document, indent=indent, sort_keys=True, ensure_ascii=False, separators=separators)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read and check a plan that `to_json` wrote.

        Raises
        ------
        RekernelError
            If a field is unknown, the version is another one, or a shape is impossible; the message names the entry.

        Examples
        --------
        >>> plan = Plan((LayerChange("a.bias", "F32", (4,), (4,), "keep", "bias or norm"),))
        >>> Plan.from_json(plan.to_json()) == plan
        True
        """
        check_instance(text, str, "plan", "pass the text of a plan: Plan.from_json(Path('plan.json').read_text())")
        document = strict_text(text, "plan", "text")
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise RekernelError(f'plan: not a rekernel plan; it must be an object whose "schema" is {SCHEMA!r}')
        if document.get("version") != VERSION:
            found = shown(repr(document.get("version")))
            raise RekernelError(f"plan: version {found} is not {VERSION}, which this rekernel reads; plan again")
        extra = set(document) - _FIELDS
        if extra:
            raise RekernelError(f"plan: unknown field {shown(sorted(extra)[0])}")
        document = filled(document)
        for what in ("changes", "modules", "warnings"):
            if not isinstance(document.get(what, []), list):
                raise RekernelError(f"plan: {what} is not a list")
        try:
            changes = tuple(change_of(entry) for entry in document["changes"])
            modules = tuple(module_of(entry) for entry in document.get("modules", ()))
            family, options, warnings = (
                document["family"],
                document["options"],
                tuple(map(from_json, document["warnings"])),
            )
            checked = document.get("checked", "")
        except KeyError as error:
            raise RekernelError(f"plan: field {error} is missing") from None
        except TypeError as error:
            raise RekernelError(f"plan: a field has the wrong type: {inert(str(error))}") from None
        if (
            not isinstance(family, str)
            or not isinstance(options, dict)
            or not all(isinstance(text, str) for text in (*warnings, checked))
        ):
            raise RekernelError("plan: family and checked must be text, options an object and warnings a list of texts")
        repeated = [name for name, count in Counter(c.name for c in changes).items() if count > 1]
        if repeated:
            raise RekernelError(f"plan: {shown(repeated[0])} is listed twice")
        return cls(changes, family, options, warnings, modules, **facts_of(document), checked=checked)

    def _line(self) -> str:
        said = described(self)
        asked = ", ".join(f"{label} {inert(said[label], 60)}" for label in ("scale", "method") if label in said)
        notes = f"; {counted(len(self.warnings), 'note')}" if self.warnings else ""
        return f"{inert(self.family, 80) or 'no family recognised'}, {asked}: {self.counted()}{notes}"

    def _tables(self) -> Iterator[Table]:
        rows = [(shown(c.name), dims(c.shape), dims(c.new_shape), c.settings()) for c in self.changed]
        yield Table(f"{self.counted()}", ("tensor", "old shape", "new shape", "method and taps"), rows)
        layers = [(shown(m.name) if m.name else "the model itself", m.kind, m.reason) for m in self.modules]
        yield Table(counted(len(layers), "layer") + " without tensors", ("layer", "kind", "why"), layers)
        kept = Counter(c.reason for c in self.changes if c.kept)
        reasons = [(f"{count:,}", reason) for reason, count in kept.most_common()]
        yield Table(f"{counted(sum(kept.values()), 'tensor')} kept", ("tensors", "why"), reasons)
        yield notes_table(self.warnings)

    def __str__(self) -> str:
        """Return a table of the changes, and a line for each reason why tensors stay unchanged."""
        rows = [("tensor", "old shape", "new shape", "method and taps", "gain", "gain error")]
        rows += [
            (
                shown(c.name, 70),
                dims(c.shape),
                dims(c.new_shape),
                f"{c.settings()}{c.on_grid()}",
                c.resamplings[0].gain,
                f"{c.dc_deviation():.1g}",
            )
            for c in self.changed
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if not self.changed:
            lines = ["nothing changes" if self.empty else "no tensor changes"]
        kept = Counter(c.reason for c in self.changes if c.kept)
        lines += ["", f"{self.counted()}; kept:"] if kept else []
        lines += [f"  {count:5d}  {inert(reason)}" for reason, count in kept.most_common(_FEW)]
        if len(kept) > _FEW:
            lines.append(f"  {sum(n for _, n in kept.most_common()[_FEW:]):5d}  other reasons")
        if self.checked:
            lines.append(f"checked: {inert(self.checked)}")
        return "\n".join([*lines, *(f"note: {inert(warning)}" for warning in self.warnings)])


def plan_of(entry: object) -> Plan:
    """Read the plan that is a part of another JSON document; raises the errors of `Plan.from_json`.

    Examples
    --------
    >>> plan_of({"schema": "another"})
    Traceback (most recent call last):
    rekernel.errors.RekernelError: plan: not a rekernel plan; it must be an object whose "schema" is 'rekernel.plan'
    """
    try:
        text = json.dumps(entry)
    except (RecursionError, TypeError, ValueError):
        raise RekernelError("plan: it is nested too deeply, or holds a value that is not JSON") from None
    return Plan.from_json(text)
