"""List the names under which a diffusers pipeline keeps its denoisers.

Scope: constants. Imports nothing, so that every module of `diffusion` can use them.
"""

DENOISERS = ("unet", "transformer")
"""Names of the denoiser. The first of these that a pipeline has is the one that is guided."""
IMAGE_AND_TIME = (("sample", "timestep"), ("hidden_states", "timestep"), ("x", "t"))
"""Names of the arguments of a denoiser that hold the noisy image and its time."""
SECOND = ("transformer_2", "unet_2", "unconditional_transformer")
"""Names of the second denoiser, in a pipeline that has two."""

SIZE_OF_PIPELINE = ("FluxTransformer2DModel", "Flux2Transformer2DModel", "QwenImageTransformer2DModel")
"""Networks whose pipelines have their default size in `default_sample_size`, on the network's grid."""
