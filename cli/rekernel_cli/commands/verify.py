"""`rekernel verify`: did it work on this model? Layer by layer, without labels; with them, accuracy and macro F1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import values
from ..help_layout import GroupedCommand
from ..main import Failure
from ..options import INPUT, OUTPUT, option


@click.command(cls=GroupedCommand)
@click.argument("source", type=click.Path())
@click.argument("converted", type=click.Path())
@option(
    "--model",
    "factory",
    group=INPUT,
    required=True,
    metavar="MODULE:NAME",
    help="What builds the model at its trained size: package.module:Class, or path/to/file.py:function.",
)
@option(
    "--input",
    "shape",
    group=INPUT,
    required=True,
    metavar="CxHxW",
    callback=lambda _ctx, _param, text: values.shape(text),
    help="The trained input, without the batch: 3x224x224.",
)
@option(
    "--data",
    group=INPUT,
    type=click.Path(path_type=Path),
    help="An .npz with `images` (N,H,W), (N,C,H,W) or (N,H,W,C) of the new size or larger, and `labels` if there are "
    "any. Without it: smooth noise.",
)
@option("--figure", group=OUTPUT, type=click.Path(path_type=Path), help="Draw the errors layer by layer into this PNG.")
@option("--json", "as_json", group=OUTPUT, is_flag=True, help="Print the result as JSON.")
def verify(
    source: str,
    converted: str,
    factory: str,
    shape: tuple[int, ...],
    data: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Measure how far a converted checkpoint is from its original.

    The original runs on the input reduced to the trained size, the converted one on the input as it is; after each
    layer the larger answer is reduced and compared. Needs torch, and runs the code that --model names.

    \b
        rekernel verify cnn.safetensors cnn-2x.safetensors --model models.py:GlyphCNN --input 1x16x16
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Failure("verify runs the models, with torch: pip install 'rekernel[torch]'") from None
    from ..tables.verify import print_comparison
    from ..verifying.run import compare, draw

    result: dict[str, Any] = compare(source, converted, factory, shape, data)
    if figure is not None:
        draw(result, figure)
    if as_json:
        from ..terminal import echo_json

        echo_json(result)
        return
    from ..terminal import console

    print_comparison(console(), result)
    if figure is not None:
        click.echo(f"The figure is {figure}.")
