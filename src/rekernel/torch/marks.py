"""Name what rekernel leaves on a module that it rescaled."""

from __future__ import annotations

PLAN = "rekernel_plan"
"""The attribute of a rescaled module that holds its plan."""
TRAINED = "rekernel_trained_config"
"""The attribute that holds the entries of the module's `config` that have new values, with those before."""
SAVE = "save_pretrained"
"""The method of transformers and diffusers that an attribute of the same name stands in front of."""
