"""ComfyUI custom nodes: upsample guidance, rescaled kernels, and stages of a guided cascade.

Link or copy this folder into ComfyUI/custom_nodes; README.md says how. ComfyUI itself is not imported anywhere here.
"""

from .find_library import find_library

find_library()

from .cascade_node import RekernelCascadeStage  # noqa: E402
from .guidance_node import RekernelUpsampleGuidance  # noqa: E402
from .kernels_node import RekernelSupersampledKernels  # noqa: E402

NODE_CLASS_MAPPINGS = {
    "RekernelUpsampleGuidance": RekernelUpsampleGuidance,
    "RekernelSupersampledKernels": RekernelSupersampledKernels,
    "RekernelCascadeStage": RekernelCascadeStage,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RekernelUpsampleGuidance": "Upsample Guidance (rekernel)",
    "RekernelSupersampledKernels": "Rescaled Kernels (rekernel)",
    "RekernelCascadeStage": "Guided Cascade Stage (rekernel)",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
