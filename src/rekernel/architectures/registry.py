"""The families of architectures in the order in which they are asked.

Scope: the order. Not here: what a family is (see `base`), and the families themselves (see `diffusion`, `vision`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RekernelError
from ..escape import shown
from .base import Family, Shapes
from .diffusion import AutoencoderKL, DiffusersUNet, SingleFileDiffusion
from .vision import MLP, ConvNeXt, ResNet, Transformer, ViT

_families: tuple[Family, ...] = (
    DiffusersUNet(),
    AutoencoderKL(),
    SingleFileDiffusion(),
    ViT(),
    ResNet(),
    ConvNeXt(),
    Transformer(),
    MLP(),
)

_METHODS = ("recognises", "facts", "gives_image", "presets", "notes")


def families() -> tuple[Family, ...]:
    """All families. The first that recognises a checkpoint is its family.

    Examples
    --------
    >>> [family.name for family in families()][:2]
    ['diffusers UNet', 'diffusers AutoencoderKL']
    """
    return _families


def recognise(shapes: Shapes) -> Family | None:
    """The first family that recognises the keys.

    Examples
    --------
    >>> recognise({"fc.weight": (10, 3)}) is None
    True
    """
    return next((family for family in _families if family.recognises(shapes)), None)


def register(family: Family, before: str | None = None) -> None:
    """Add a family of your own, which `plan_checkpoint`, `convert` and `inspect` then know in this process.

    Parameters
    ----------
    family : Family
        An object with the members that `Family` names. Where two families recognise a checkpoint, the one that is asked
        first is taken.
    before : str, optional
        The name of the family to ask it before; by default it is asked last.

    Raises
    ------
    RekernelError
        For an object without these members, a name that is taken, and a `before` that is not a family's name. The
        registry is then as it was.

    Examples
    --------
    A family of classifiers. Their first convolution has stride 4, which no shape tells.

    >>> from rekernel.architectures.base import LayerFacts
    >>> class Classifier:
    ...     name, default = "my classifier", "all"
    ...     def recognises(self, shapes):
    ...         return "my.stem.weight" in shapes
    ...     def facts(self, name, shapes):
    ...         return LayerFacts(stride=4, reads_image=True) if name == "my.stem.weight" else LayerFacts()
    ...     def gives_image(self, shapes):
    ...         return False
    ...     def presets(self, shapes):
    ...         return {"all": ("*",)}
    ...     def notes(self, shapes):
    ...         return ()
    >>> with restored():  # in a program of yours: register(Classifier(), before="plain MLP")
    ...     register(Classifier(), before="plain MLP")
    ...     recognise({"my.stem.weight": (8, 3, 7, 7)}).name
    'my classifier'
    """
    global _families
    names = [known.name for known in _families]
    lacking = [text for text in ("name", "default") if not getattr(family, text, "")]
    lacking += [method for method in _METHODS if not callable(getattr(family, method, None))]
    if lacking:
        raise RekernelError(f"{type(family).__name__} is not a family: it lacks {', '.join(lacking)}")
    if family.name in names:
        raise RekernelError(f"a family is called {shown(family.name)} already; choose another name")
    if before is not None and before not in names:
        raise RekernelError(f"before={before!r} is not a family's name; choose from {', '.join(map(shown, names))}")
    # Built aside and swapped last, so that every reader sees the old families or the new.
    place = len(names) if before is None else names.index(before)
    _families = (*_families[:place], family, *_families[place:])


@contextmanager
def restored() -> Iterator[None]:
    """Whatever is registered inside is forgotten at the end.

    Examples
    --------
    >>> with restored():
    ...     pass
    """
    global _families
    before = _families
    try:
        yield
    finally:
        _families = before
