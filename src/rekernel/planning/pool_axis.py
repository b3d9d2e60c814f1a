"""Tell what a rescaled pooling reads along one axis: how many outputs it has, and how many pixels of a window count.

Scope: whole numbers, and arrays of them of NumPy or PyTorch. Not here: the new geometry itself (see
`planning.pooling`), and the poolings of a framework (see `rekernel.torch.layers.pools` and `rekernel.onnx.pools`).
Derivation: docs/mathematics.md, "Pointwise layers, pooling, and what stays".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..plan.changes import AxisGeometry
from ..resampling.geometry import pool_output_size


@dataclass(frozen=True)
class PoolAxis:
    """A rescaled pooling along one axis.

    old, new : geometry before and after. The right padding of `new` is that at the size of the plan; `right` tells the
        padding at any size
    hangs_over : whether the last window of the old pooling may hang over the right edge (`ceil_mode`)
    by_hand : padding with zeros that the model's code adds, (left, right); the layer adds what it grows by

    Examples
    --------
    >>> axis = PoolAxis(AxisGeometry(3, 2, (0, 0)), AxisGeometry(3, 2, (0, 3), 2), hangs_over=True)
    >>> axis.count(32), axis.right(32), axis.right(34)
    (16, 3, 1)
    """

    old: AxisGeometry
    new: AxisGeometry
    hangs_over: bool = False
    by_hand: tuple[int, int] = (0, 0)

    @property
    def _ratio(self) -> tuple[int, int]:
        """New pixels per old pixel of the input, as a fraction."""
        if self.new.kernel == self.old.kernel:  # the taps are spread, or the layer stays
            return self.new.dilation, self.old.dilation
        return self.new.kernel, self.old.dilation * (self.old.kernel - 1) + 1

    @property
    def scale(self) -> int:
        """New pixels per old pixel of the input, rounded; 1 or more."""
        new, old = self._ratio
        return max(1, round(new / old))

    @property
    def grows(self) -> int:
        """New pixels per old pixel of the output."""
        return max(1, round(self.scale * self.old.stride / self.new.stride))

    @property
    def absorbs(self) -> bool:
        """Whether the output stays where the input grows: the stride grows, or the window is larger than both grids."""
        return self.new.stride != self.old.stride or (self.new == self.old and self.old.kernel > 1)

    @property
    def reach(self) -> int:
        """Pixels from the first to the last that a window reads."""
        return self.new.dilation * (self.new.kernel - 1) + 1

    @property
    def more_zeros(self) -> tuple[int, int]:
        """Zeros that the padding by hand grows by."""
        left, right = self.by_hand
        return (self.scale - 1) * left, (self.scale - 1) * right

    @property
    def old_padding(self) -> tuple[int, int]:
        """The padding of the old pooling, in new pixels."""
        return self.scale * self.old.padding[0], self.scale * self.old.padding[1]

    # In the methods below, `n` is the number of pixels of the input, `more_zeros` included.

    def count(self, n: int) -> int:
        """Number of outputs: as many as the old pooling gives on a grid of the old size, times `grows`."""
        new, old = self._ratio
        before = (2 * n * old + new) // (2 * new)
        count = pool_output_size(
            before, self.old.kernel, self.old.stride, self.old.padding, self.old.dilation, ceil_mode=self.hangs_over
        )
        return count * self.grows

    def right(self, n: int) -> int:
        """Right padding; a negative number crops."""
        return self.new.stride * (self.count(n) - 1) + self.reach - n - self.new.padding[0]

    def overhangs(self, n: int, *, padding: bool) -> bool:
        """Whether some windows read what does not count; see `counted`."""
        left, right = self.old_padding if padding else (0, 0)
        return self.new.padding[0] > left or self.right(n) > right

    def counted(self, outputs: Any, n: int, *, padding: bool) -> Any:
        """Number of pixels that count in the windows of some outputs.

        Parameters
        ----------
        outputs : array of NumPy or PyTorch
            Numbers of the outputs.
        padding : bool
            Whether the padding of the old pooling counts. What lies beyond that padding never counts.
        """
        left, right = self.old_padding if padding else (0, 0)
        starts = outputs * self.new.stride - self.new.padding[0]
        # Of the taps at 0, d, 2 d, ... of a window, ceil(m / d) lie below m.
        inside, before = (
            (-((starts - end) // self.new.dilation)).clip(0, self.new.kernel) for end in (n + right, -left)
        )
        return inside - before

    def _seen(self, n: int) -> tuple[int, int]:
        """The first and the last output whose windows read a pixel of the input."""
        left, stride = self.new.padding[0], self.new.stride
        return max(0, -((self.reach - 1 - left) // stride)), min(self.count(n) - 1, (n - 1 + left) // stride)

    def unseen(self, n: int) -> bool:
        """Whether some windows read no pixel of the input: on a finer grid a window may lie beyond the last old one."""
        return self._seen(n) != (0, self.count(n) - 1)

    def seen(self, outputs: Any, n: int) -> Any:
        """For some outputs (an array of NumPy or PyTorch) the nearest ones whose windows read a pixel."""
        return outputs.clip(*self._seen(n))
