"""What a denoiser's `config.json` says of rekernel, as far as a conversion has to know: that it says something.

Knows one key of a JSON file; what the entry means is `diffusion.recorded`'s. Format: docs/recipe.md, "Guidance".
"""

from __future__ import annotations

KEY = "_rekernel"
"""The entry of a denoiser's config; diffusers keeps those that begin with an underscore and gives them to no model."""
