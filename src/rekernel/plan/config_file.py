"""Name what rekernel adds to files that other libraries write beside weights: `config.json` and README.md.

Scope: one key of a JSON file, one line of a text. Not here: what the entry means (see `plan.config_entry` and
`diffusion.pipelines.record`). Format: docs/recipe.md, "Guidance" and "Rescaled weights in config.json".
"""

from __future__ import annotations

KEY = "_rekernel"
"""Key of the entry. diffusers keeps keys that begin with an underscore, and does not pass them to the model."""
HOW_TO_LOAD = "<!-- rekernel: how to load -->"
"""The line that begins rekernel's section of a README.md."""
