"""Keep a note about each tensor of a pass, for as long as the tensor exists.

Scope: a mapping by identity. Not here: what is noted (see `tensor_state` and `steps`).
"""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import ref

from torch import Tensor

T = TypeVar("T")


class _Reference(ref[Tensor]):
    """A weak reference that knows the identity of its tensor after the tensor is gone."""

    __slots__ = ("key",)
    key: int


class TensorNotes(Generic[T]):
    """A mapping from tensors, by identity; an entry goes when its tensor does.

    torch's own `WeakTensorKeyDictionary` makes a reference for each look-up. A trace looks a tensor up several times
    per function, and holds the tensor while it does, so that the identity alone is enough.

    Examples
    --------
    >>> import torch
    >>> notes, x = TensorNotes[str](), torch.zeros(2)
    >>> notes[x] = "image"
    >>> notes.get(x), notes.get(torch.zeros(2)), x in notes, len(notes)
    ('image', None, True, 1)
    >>> del x
    >>> len(notes)
    0
    """

    def __init__(self) -> None:
        self._of: dict[int, tuple[_Reference, T]] = {}
        here = ref(self)  # no cycle: a trace makes thousands of entries, which would wait for the garbage collector

        def forget(gone: ref[Tensor]) -> None:
            notes = here()
            assert isinstance(gone, _Reference)
            if notes is not None and gone.key in notes._of and notes._of[gone.key][0] is gone:
                del notes._of[gone.key]

        self._forget = forget

    def __setitem__(self, tensor: Tensor, note: T) -> None:
        reference = _Reference(tensor, self._forget)
        reference.key = id(tensor)
        self._of[reference.key] = reference, note

    def __getitem__(self, tensor: Tensor) -> T:
        return self._of[id(tensor)][1]

    def get(self, tensor: Tensor) -> T | None:
        found = self._of.get(id(tensor))
        return None if found is None else found[1]

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._of

    def __len__(self) -> int:
        return len(self._of)
