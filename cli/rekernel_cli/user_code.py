"""Run code that is not part of rekernel: an exception becomes one line, and a bug in rekernel keeps its traceback.

Scope: exceptions. Not here: models, and whose code raised an exception (see `rekernel.torch.others_code`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rekernel.errors import RekernelError
from rekernel.escape import shown
from rekernel.torch.others_code import place_of


@contextmanager
def running(what: str, hint: str = "") -> Iterator[None]:
    """Run code that is not part of rekernel, and shorten exceptions of this code to one line.

    Parameters
    ----------
    what : str
        Beginning of the message, escaped already: 'UNet2DModel on 33x33 pixels'.
    hint : str
        End of the message.

    Raises
    ------
    RekernelError
        If the code raises an exception.
    MemoryError
        If the code needs more memory than is available.
    """
    try:
        yield
    except (RekernelError, OSError, MemoryError):  # these already have a message of one line
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "allocate" in str(error):  # on a CPU, torch has no class for this error
            raise MemoryError(what) from None
        place = place_of(error)
        if place is None and isinstance(error, SyntaxError) and error.filename:  # the code never ran
            place = f"{Path(error.filename).name}, line {error.lineno}"
            error = SyntaxError(error.msg)
        if place is None:
            raise
        said = next(filter(None, map(str.strip, str(error).splitlines())), "")
        reason = f"{type(error).__name__}{': ' if said else ''}{shown(said, 300) if said else ''}"
        raise RekernelError(f"{what}: {reason} ({shown(place, 100)}){hint}") from None


def import_file(path: Path) -> ModuleType:
    """Run a .py file as a separate module that no other import finds."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
