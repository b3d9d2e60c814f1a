"""Find the place of each tensor of a file in a transformers model, by the rules of transformers itself.

Since version 5 of transformers, tensors have other names in modules than in files, and some are split or joined when
they are loaded; `save_pretrained` writes the names of the file.
Scope: the tables of transformers (`get_model_conversion_mapping`), for its own models. This module never imports
transformers. In any other model, tensors have the names of the file. Not here: reading tensors (see
`torch.files.file_tensors`).
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.tensor_source import TensorSource
from ...errors import RekernelError
from ...escape import shown
from ...text import few
from ..dtypes import TORCH_DTYPES
from .file_tensors import Converted, Incoming


def incoming(source: TensorSource, model: nn.Module) -> Incoming:
    """The tensors of a file, under the names that they have in a model.

    A tensor without a known name keeps its name in the file. Tensors that transformers ignores (buffers in older files)
    are left out.

    Raises
    ------
    RekernelError
        If two tensors have the same place in the model, or if transformers cannot split or join a tensor.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> from rekernel.checkpoint.open_local import open_checkpoint
    >>> path = tempfile.mkdtemp() + "/in.safetensors"
    >>> layer = nn.Linear(2, 3)
    >>> save_file(layer.state_dict(), path)
    >>> with open_checkpoint(path) as source:
    ...     incoming(source, layer).shapes
    {'bias': (3,), 'weight': (3, 2)}
    """
    tables = _tables(model)
    state = model.state_dict()
    if tables is None:
        return Incoming(source, {name: name for name in source.tensors})
    names: dict[str, str] = {}
    groups: dict[str, list[tuple[Any, str, str]]] = {}
    passed_over = _passed_over(model)
    for file in sorted(source.tensors, key=tables.loading.dot_natural_key):  # the tables need this order
        name, converter, pattern = tables.name(file, state)
        if converter is not None:
            groups.setdefault(name, []).append((converter, pattern, file))
        elif name in names:
            raise RekernelError(
                f"{shown(names[name])} and {shown(file)}: both are {shown(name)} of this {type(model).__name__}; keep "
                f"one of them"
            )
        elif name in state or not any(re.search(p, name) for p in passed_over):
            names[name] = file
    converted = [_converted(source, model, first, found) for first, found in groups.items()]
    for name in (name for group in converted for name in group.made if name in names):
        raise RekernelError(
            f"{shown(names[name])}: is {shown(name)} of this {type(model).__name__}, and other tensors of the file are "
            f"joined or split to the same one; keep one of them"
        )
    return Incoming(source, names, converted)


class _Tables:
    """The rules of transformers for one model."""

    def __init__(self, model: Any, loading: Any, rules: Sequence[Any]) -> None:
        self.loading = loading
        self._prefix = model.base_model_prefix
        self._renamings = [rule for rule in rules if isinstance(rule, loading.WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, loading.WeightConverter)]

    def name(self, file: str, state: Mapping[str, Tensor]) -> tuple[str, Any, str]:
        """The name of a tensor in the model, and the converter that makes it with the pattern that matched, if any."""
        rename = self.loading.rename_source_key
        name, pattern = rename(file, self._renamings, self._converters, self._prefix, state)
        if name not in state and file in state:  # the file has the names of the module
            return file, None, ""
        if pattern is None or name not in state:
            return (name if name in state else file), None, ""
        return name, next(c for c in self._converters if pattern in c.source_patterns), pattern


def _tables(model: Any) -> _Tables | None:
    """The rules for a model; None if it is not a transformers model, or if transformers has no such rules."""
    modeling = sys.modules.get("transformers.modeling_utils")
    mapping = sys.modules.get("transformers.conversion_mapping")
    loading = sys.modules.get("transformers.core_model_loading")
    if modeling is None or mapping is None or loading is None or not isinstance(model, modeling.PreTrainedModel):
        return None
    return _Tables(model, loading, mapping.get_model_conversion_mapping(model))


def _passed_over(model: Any) -> set[str]:
    """Patterns of tensors that transformers ignores if the model does not have them."""
    patterns = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    for buffer in ("position_ids", "inv_freq"):  # older files hold these buffers
        if any(name.endswith(buffer) for name, _ in model.named_buffers()):
            patterns.add(rf"(^|\.){buffer}$")
    return patterns


def _converted(source: TensorSource, model: Any, first: str, found: Sequence[tuple[Any, str, str]]) -> Converted:
    """The conversion of the tensors that make the one named `first`, and those made with it."""
    files = tuple(file for _, _, file in found)

    def convert(tensors: Sequence[Tensor]) -> Mapping[str, Tensor]:
        worker = copy.deepcopy(found[0][0])  # it stores the tensors that it is given
        for (_, pattern, file), tensor in zip(found, tensors, strict=True):
            worker.add_tensor(first, file, pattern, tensor)
        made = worker.convert(first, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    infos = [source.tensors[file] for file in files]
    try:
        empty = [torch.empty(info.shape, dtype=TORCH_DTYPES[info.dtype], device="meta") for info in infos]
        return Converted(files, convert, convert(empty))
    except Exception as error:  # transformers may raise anything for tensors that do not fit together
        what = f"{type(error).__name__}: {error}"
        raise RekernelError(
            f"{few([*map(shown, files)])}: transformers cannot make {shown(first)} of this {type(model).__name__} "
            f"from it ({shown(what, 200)}); check that the file is for this architecture"
        ) from None
