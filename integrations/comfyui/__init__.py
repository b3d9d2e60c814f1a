"""ComfyUI custom nodes: upsample guidance, and stages of a guided cascade.

Link or copy this folder into ComfyUI/custom_nodes/rekernel.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
