"""The names under which a diffusers pipeline keeps its denoisers.

Scope: two constants. Imports nothing, so that every module here can use them.
"""

DENOISERS = ("unet", "transformer")
"""The component that is guided: the first of these that a pipeline has."""
SECOND = ("transformer_2", "unet_2")
"""The other one, in a pipeline with two denoisers."""
