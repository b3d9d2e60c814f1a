"""`rekernel inspect`: show the contents of a checkpoint, read from the headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..help_layout import GroupedCommand

if TYPE_CHECKING:
    from rekernel import Info
    from rekernel.onnx import Value


@click.command(cls=GroupedCommand)
@click.argument("source", type=click.Path())
@click.option("--tensors", is_flag=True, help="List each tensor with its dtype and shape.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, including all tensors and the plan of the recipe.")
@click.option("--allow-pickle", is_flag=True, help="Also read .bin, .pt, .pth and .ckpt, with PyTorch's safe loader.")
def inspect(source: str, tensors: bool, as_json: bool, allow_pickle: bool) -> None:
    """Show what a checkpoint holds, from its header alone.

    SOURCE is a .safetensors file, an index, a folder with one of them, a diffusers pipeline folder, or an ONNX model.
    SOURCE may be local, on the Hub (hf://org/name[@revision][/folder or file]) or in a store (s3://bucket/folder). No
    weights are read, so the command is fast. An ONNX model on the Hub is downloaded, without external files of tensors.
    The command shows size, dtypes, metadata, the recognised family of architectures with the presets, and how the
    weights were rescaled, if they were.

    \b
        rekernel inspect unet.safetensors
        rekernel inspect hf://org/stable-diffusion@main/unet --tensors
        rekernel inspect unet-2x.safetensors --json | jq .recipe.plan.options
    """
    import rekernel

    info = rekernel.inspect(source, allow_pickle=allow_pickle)
    if as_json:
        from ..terminal import echo_json

        echo_json(_document(info))
        return
    from rekernel.escape import shown

    from ..tables.plan import print_info
    from ..terminal import console

    print_info(console(), info, shown(source, 400), tensors=tensors, source=Path(source))


def _document(info: Info) -> dict[str, Any]:
    import os

    document: dict[str, Any] = {
        "path": os.fspath(info.path),
        "kind": info.kind,
        "bytes": info.nbytes,
        "parameters": info.parameters,
    }
    if info.components:
        return document | {"components": {name: _document(part) for name, part in info.components.items()}}
    if info.recorded is not None:
        document["recorded"] = info.recorded.to_entry()
    return document | {
        "family": info.family,
        "presets": list(info.presets),
        "dtypes": {dtype: {"tensors": count, "bytes": nbytes} for dtype, (count, nbytes) in info.dtypes.items()},
        **{what: [_value(value) for value in values] for what, values in _ends(info) if values},
        "metadata": info.metadata,
        "recipe": json.loads(info.recipe.to_json()) if info.recipe else None,
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.nbytes} for t in info.tensors
        ],
    }


def _ends(info: Info) -> list[tuple[str, tuple[Value, ...]]]:
    return [("inputs", info.inputs), ("outputs", info.outputs)]


def _value(value: Value) -> dict[str, Any]:
    return {"name": value.name, "dtype": value.dtype, "shape": None if value.shape is None else list(value.shape)}
