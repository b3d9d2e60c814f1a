"""Find out whether the `config.json` of a denoiser holds an entry of rekernel.

Scope: one key of a JSON file. Not here: what the entry means (see `diffusion.pipelines.record`). Format:
docs/recipe.md, "Guidance".
"""

from __future__ import annotations

KEY = "_rekernel"
"""The entry of a denoiser's config; diffusers keeps those that begin with an underscore and gives them to no model."""
