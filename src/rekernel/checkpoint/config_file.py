"""Name the entry that rekernel adds to the `config.json` of a denoiser.

Scope: one key of a JSON file. Not here: what the entry means (see `diffusion.pipelines.record`). Format:
docs/recipe.md, "Guidance".
"""

from __future__ import annotations

KEY = "_rekernel"
"""Key of the entry. diffusers keeps keys that begin with an underscore, and does not pass them to the model."""
