"""Hold what the settings of guidance, kernels and positions share: the scale, and access to options by name.

Scope: names, types and checks of options, for records, model cards and the command line. Not here: the meaning of an
option (see `settings` in `guidance`, `kernels` and `positions`). Imports neither torch nor diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from ..errors import RekernelError
from ..escape import shown
from ..text import scale_text
from .formulas.sizes import Scale, checked_scale


@dataclass(eq=False, repr=False)
class SamplerSettings:
    """The scale of a sampler; a subclass adds its own settings as fields.

    scale : 'auto', a number, or one per grid axis
    _what : name of the settings in messages about an option
    _not_options : names of fields that are not options in a record or on the command line
    """

    scale: float | Sequence[float] | str = "auto"

    _what: ClassVar[str] = "settings"
    _not_options: ClassVar[tuple[str, ...]] = ("scale",)

    def __post_init__(self) -> None:
        self.scale = checked_scale(self.scale)

    def given(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The options that a record and the command line can name, in the order of the fields."""
        return tuple(field.name for field in fields(cls) if field.name not in cls._not_options)

    @classmethod
    def option_types(cls) -> dict[str, type]:
        """The type of each option; where its annotation is a union, the first type of the union."""
        hints = get_type_hints(cls)
        return {name: _first_type(hints[name]) for name in cls.option_names()}

    @classmethod
    def from_options(cls, scale: Scale, options: Mapping[str, Any]) -> Self:
        """Make settings from a scale and options by name.

        Raises
        ------
        RekernelError
            For an option that does not exist, and for a value that is not valid.
        """
        cls._check_options(options)
        return cls(scale, **options)

    @classmethod
    def from_arguments(cls, given: Mapping[str, Any]) -> Self:
        """Make settings from options by name and, unlike in a record, from objects such as a schedule.

        Raises
        ------
        RekernelError
            For an option that does not exist, and for a value that is not valid.
        """
        objects = {name: value for name, value in given.items() if name in cls._not_options and name != "scale"}
        made = cls.from_options("auto", {name: value for name, value in given.items() if name not in objects})
        return replace(made, **objects)

    @classmethod
    def _check_options(cls, options: Mapping[str, Any]) -> None:
        what, names = cls._what, cls.option_names()
        if not isinstance(options, Mapping):
            text = shown(repr(options), 80)
            raise RekernelError(f"{what}: {text} is not a mapping of options by name; write {{{names[0]!r}: ...}}")
        if unknown := sorted(set(options) - set(names)):
            raise RekernelError(f"{what}: no option {', '.join(map(shown, unknown))}; there are {', '.join(names)}")
        for name, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise RekernelError(f"{what}: {name}={value} must be a finite number")

    def _described(self) -> str:
        """The arguments that make these settings, for a repr."""
        scale = self.scale
        if isinstance(scale, tuple) and len(scale) == 2 and scale[0] == scale[1]:
            scale = scale[0]  # one number for an image; a video needs all three, since one alone leaves the frames
        return f"scale={scale_text(scale)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._described()})"


def _first_type(hint: Any) -> type:
    """The type of a value: of the words of a Literal, and the first of a union."""
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    return _first_type(get_args(hint)[0]) if isinstance(hint, UnionType) or get_origin(hint) is Union else hint
