"""The one exception a caller has to know.

Knows nothing of tensors or files; every other module raises it (or a subclass of it defined there).
"""

from __future__ import annotations


class RekernelError(ValueError):
    """Something the user can correct: the message says what was wrong, where, and what to do.

    Examples
    --------
    >>> issubclass(RekernelError, ValueError)
    True
    """
