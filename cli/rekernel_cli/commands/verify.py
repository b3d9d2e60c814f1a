"""`rekernel verify`: measure the errors of a converted model by layer, and with labels accuracy and macro F1."""

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
    help="Class or function that builds the model at the trained size: package.module:Class, or "
    "path/to/file.py:function.",
)
@option(
    "--input",
    "shape",
    group=INPUT,
    required=True,
    metavar="CxHxW",
    callback=lambda _ctx, _param, text: values.shape(text),
    help="Shape of the trained input, without the batch: 3x224x224.",
)
@option(
    "--data",
    group=INPUT,
    type=click.Path(path_type=Path),
    help="An .npz file with `images` (N,H,W), (N,C,H,W) or (N,H,W,C), of the new size or larger, normalised as in "
    "training (whole numbers are divided by 255), and optional `labels`. Default: smooth noise.",
)
@option(
    "--forward",
    "runner",
    group=INPUT,
    metavar="MODULE:NAME",
    help="Function that runs a model with more inputs than the image: def run(model, x): return model(x, timestep=1).",
)
@option("--allow-pickle", group=INPUT, is_flag=True, help="Also read .bin, .pt, .pth and .ckpt (tensors only).")
@option("--figure", group=OUTPUT, type=click.Path(path_type=Path), help="Draw the errors by layer into this PNG file.")
@option("--json", "as_json", group=OUTPUT, is_flag=True, help="Print the result as JSON.")
def verify(
    source: str,
    converted: str,
    factory: str,
    shape: tuple[int, ...],
    data: Path | None,
    runner: str | None,
    allow_pickle: bool,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Measure how much a converted checkpoint differs from the original.

    The original model runs on the input reduced to the trained size. The converted model runs on the full input. After
    each layer, the larger output is reduced and compared. It also shows how the original answers when the picture
    moves, since supersampled strides see moved pictures. Needs torch, and runs the code that --model names. SOURCE and
    CONVERTED are files, or folders of transformers or of a component of diffusers.

    \b
        rekernel verify cnn.safetensors cnn-2x.safetensors --model models.py:GlyphCNN --input 1x16x16
        rekernel verify vit vit-2x --model models.py:vit --input 3x224x224
        rekernel verify unet unet-2x --model models.py:unet --input 3x32x32 --forward models.py:run
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Failure("verify needs torch to run the models: pip install torch") from None
    from ..tables.verify import print_comparison
    from ..verifying.run import compare, draw

    result: dict[str, Any] = compare(source, converted, factory, shape, data, runner=runner, allow_pickle=allow_pickle)
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
