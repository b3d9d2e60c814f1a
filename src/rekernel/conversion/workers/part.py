"""Name a part of a conversion, and choose its share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import RekernelError
from ...messages.arguments import short

_SPELLED = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1 on.

    Examples
    --------
    >>> Part.of("3/16")
    Part(number=3, count=16)
    >>> Part.of("0/16")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: part='0/16' is not a part; pass one, such as '3/16' for the third of sixteen
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def of(cls, spelling: object) -> Part:
        """Read a part as `convert` takes one."""
        found = _SPELLED.fullmatch(spelling) if isinstance(spelling, str) else None
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise RekernelError(
                f"part={short(spelling)} is not a part; pass one, such as '3/16' for the third of sixteen"
            )
        return cls(number, count)

    def share(self, sizes: Mapping[str, int]) -> list[str]:
        """The names in this part: about as many bytes for each part, and the same answer in every run.

        Examples
        --------
        >>> [Part(number, 2).share({"a": 5, "b": 9, "c": 1}) for number in (1, 2)]
        [['b'], ['a', 'c']]
        """
        loads = [0] * min(self.count, len(sizes))  # each of the first names begins a part
        mine = []
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            least = loads.index(min(loads))
            loads[least] += sizes[name] + 1
            if least == self.number - 1:
                mine.append(name)
        return mine
