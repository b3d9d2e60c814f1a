"""Stand in for `save_pretrained` of a rescaled model of transformers or diffusers, so that the folder opens again.

Scope: calling the method of the model's class. Not here: what is added to the folder (see `torch.files.saved_folder`).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from ...plan.plan import Plan
from ..marks import PLAN, SAVE
from .saved_folder import complete, state_of

_PUSH = "push_to_hub"


class SavePretrained:
    """The `save_pretrained` of one rescaled model: that of its class, and then the recipe.

    An object in the attribute, not a bound method: it survives `copy.deepcopy` and pickling with its model.

    Parameters
    ----------
    model : nn.Module
        A model whose class has a method of that name.
    earlier : Plan, optional
        The plan in the recipe of the folder that the model was loaded from, where its config had the new sizes, so that
        nothing was left to do. It is written again.
    """

    def __init__(self, model: nn.Module, earlier: Plan | None = None) -> None:
        self.model, self.earlier = model, earlier

    def __call__(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save the model as its class does, with all arguments of that method."""
        method = getattr(type(self.model), SAVE)
        bound = self.__signature__.bind(save_directory, *args, **kwargs)
        push, rest = bound.arguments.pop(_PUSH, False), {}
        if push:  # after the folder is complete
            rest = {**bound.arguments, **bound.arguments.pop(self._others, {})}
        folder, plan = Path(save_directory), getattr(self.model, PLAN, None)
        if isinstance(plan, Plan) and plan.empty:
            plan = self.earlier
        before = state_of(folder)
        given = method(self.model, *bound.args, **bound.kwargs)
        if isinstance(plan, Plan) and not plan.empty and folder.is_dir():
            complete(folder, self.model, plan, before)
        if push:
            self._push(folder, rest)
        return given

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the method; a pipeline asks for it."""
        return inspect.signature(getattr(type(self.model), SAVE).__get__(self.model))

    @property
    def _others(self) -> str:
        """The name of the method's `**kwargs`; empty if it has none."""
        found = self.__signature__.parameters.values()
        return next((p.name for p in found if p.kind is inspect.Parameter.VAR_KEYWORD), "")

    def _push(self, folder: Path, options: dict[str, Any]) -> None:
        model: Any = self.model
        known = inspect.signature(model.push_to_hub).parameters
        repo = options.pop("repo_id", None) or folder.name
        model.push_to_hub(repo, **{name: value for name, value in options.items() if name in known})


def stand_in(model: nn.Module) -> SavePretrained | None:
    """What to put in the attribute of a rescaled model; None if its class has no such method."""
    return SavePretrained(model) if callable(getattr(type(model), SAVE, None)) else None
