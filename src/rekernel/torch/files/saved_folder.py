"""Complete the folder that another library saved a rescaled model to, so that it opens again.

`config.json` gets the plan, each safetensors file gets the recipe, and README.md says how to load it. Where the class
builds the rescaled model from its config alone, the recipe in the files is all.
Scope: a folder after `save_pretrained`. Not here: standing in for that method (see `torch.files.save_pretrained`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ...checkpoint.atomic_file import write_atomic
from ...checkpoint.strict_json import read_object
from ...errors import RekernelError
from ...escape import shown, shown_path
from ...messages.warn import tell
from ...plan.config_entry import CONFIG, with_plan
from ...plan.config_file import HOW_TO_LOAD
from ...plan.plan import Plan
from ...plan.recipe import Recipe
from ...text import scale_text
from ...version import __version__
from ..marks import TRAINED
from .add_recipe import add_recipe
from .plain_loading import loads_plainly

README = "README.md"
_END = "<!-- /rekernel -->"
_OWN = re.compile(rf"\n*{re.escape(HOW_TO_LOAD)}.*?{re.escape(_END)}\n?", re.DOTALL)
_ADAPTER = "adapter_"
"""How the files of adapters begin, which peft writes beside those of the model: they are not rescaled."""
_LIBRARIES = ("transformers", "diffusers")
"""Those whose classes `load_pretrained` builds from `config.json`."""
State = Mapping[str, tuple[int, int, int]]


def state_of(folder: Path) -> State:
    """What tells a file of a folder from one written later: inode, size and time of each; empty without a folder."""
    if not folder.is_dir():
        return {}
    return {e.name: (s.st_ino, s.st_size, s.st_mtime_ns) for e in os.scandir(folder) if e.is_file() and (s := e.stat())}


def complete(folder: Path, model: nn.Module, plan: Plan, before: State) -> None:
    """Complete a folder after `save_pretrained` of a rescaled model. Files that it did not write stay as they are.

    Parameters
    ----------
    before : what `state_of` gave before the model was saved

    Warns
    -----
    RekernelWarning
        Where the recipe cannot be added to the weights (a full disk, say). The folder opens by its `config.json` then.
    """
    new = {name for name, found in state_of(folder).items() if before.get(name) != found}
    weights = sorted(n for n in new if n.endswith(".safetensors") and not n.startswith(_ADAPTER))
    plain = loads_plainly(model)
    if CONFIG in new and not plain:
        config = with_plan(read_object(folder / CONFIG), plan, getattr(model, TRAINED, {}))
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomic(folder / CONFIG, text.encode(), force=True)
    if CONFIG in new or (weights and CONFIG not in before):  # else an adapter alone was saved, by transformers
        _explain(folder / README, model, plan, plain)
        recipe = Recipe(plan, (), "", f"rekernel {__version__}")
        try:
            for name in weights:
                add_recipe(folder / name, recipe)
        except RekernelError as error:
            note = f"{shown_path(folder)}: the weights are saved, but without the recipe in their metadata ({error}); "
            tell([f"{note}keep {CONFIG} beside them, which has it"])


def _explain(path: Path, model: nn.Module, plan: Plan, plain: bool) -> None:
    """Write how to load the folder into its README.md, in a section of its own; none where nothing needs saying."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return  # a README of the user's that cannot be changed safely
    kept = _OWN.sub("\n", text).strip("\n")
    said = "" if plain else _how_to_load(type(model), plan)
    new = "\n\n".join(part for part in (kept, said) if part)
    if new and new != text.strip("\n"):
        write_atomic(path, f"{new}\n".encode(), force=True)
    elif not new and text:
        path.unlink()


def _how_to_load(kind: type[nn.Module], plan: Plan) -> str:
    name = shown(kind.__name__)
    library = kind.__module__.partition(".")[0]
    load = 'rkt.load_pretrained("this folder, or its repository")'
    load = load if library in _LIBRARIES else load.replace(")", f", model={name}(...))  # built for its trained size")
    pipeline = (
        "\nIn a pipeline, `rekernel.diffusion.load_pipeline` loads the whole folder.\n"
        if library == "diffusers"
        else ""
    )
    scale = plan.scale[0] if isinstance(plan.scale, tuple) and len(set(plan.scale)) == 1 else plan.scale
    return f"""{HOW_TO_LOAD}
## How to load

The weights in this folder were rescaled by {scale_text(scale)} with rekernel {__version__}.
`{name}.from_pretrained` does not load them right: its config has no entry for the new kernels, strides and paddings.
rekernel does:

```python
import rekernel.torch as rkt

model = {load}
```
{pipeline}{_END}"""


__all__ = ["State", "complete", "state_of"]
