"""Ask for what 0.1.0 did by default, so that its stored plans can still be compared.

0.1.0 let every layer supersample by 'optimal', but for the patches of a vision transformer, which absorbed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rekernel as rk
import rekernel.torch as rkt


def options_said(source: Any, **options: Any) -> dict[str, Any]:
    """Options of planning a checkpoint, with the defaults of 0.1.0 said."""
    hints = options.get("hints")
    if not (hints and hints.mode):
        options.setdefault("mode", "auto" if rk.inspect(source).family == "vision transformer" else "supersample")
    return {"method": "optimal", **options}


def plan_checkpoint(source: Any, scale: Any, **options: Any) -> Any:
    """As `rekernel.plan_checkpoint`, with the defaults of 0.1.0 said."""
    return rk.plan_checkpoint(source, scale, **options_said(source, **options))


def plan_source(source: Any, scale: Any, **options: Any) -> Any:
    """As `rekernel.plan_source`, with the defaults of 0.1.0 said."""
    return rk.plan_source(source, scale=scale, **options_said(source, **options))


def plan_graph(path: Path, scale: Any, **options: Any) -> Any:
    """The plan of an ONNX model, with the defaults of 0.1.0 said: a graph with attention absorbed."""
    import onnx

    file = next(path.glob("*.onnx")) if path.is_dir() else path
    nodes = onnx.load(file, load_external_data=False).graph.node
    hints = options.get("hints")
    if not (hints and hints.mode):
        options.setdefault("mode", "auto" if any(node.op_type == "Softmax" for node in nodes) else "supersample")
    return rk.plan_source(path, scale=scale, **{"method": "optimal", **options})[""]


def rescale(model: Any, scale: Any, example: Any, **options: Any) -> Any:
    """As `rekernel.torch.rescale`, with the defaults of 0.1.0 said."""
    if "modes" not in options:
        options.setdefault("mode", "auto" if _absorbed(model, example) else "supersample")
    return rkt.rescale(model, scale, example, **{"method": "optimal", "form": "dense", "check": False, **options})


def _absorbed(model: Any, example: Any) -> bool:
    """Whether tokens attend to each other and the output is not an image of the size of the input."""
    from rekernel.torch.tracing.run import trace

    args = list(example) if isinstance(example, tuple | list) else [] if isinstance(example, dict) else [example]
    seen = trace(model, args, example if isinstance(example, dict) else None)
    attends = any(call.kind == "attention" and call.sources for call in seen.calls)
    return attends and not (seen.output and seen.out_size == seen.size)
