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
    metavar="MODULE:NAME",
    help="Class or function that builds the model at the trained size: package.module:Class, or "
    "path/to/file.py:function. Default: what config.json beside SOURCE says.",
)
@option(
    "--input",
    "shape",
    group=INPUT,
    metavar="CxHxW",
    callback=lambda _ctx, _param, text: None if text is None else values.shape(text),
    help="Shape of the trained input, without the batch: 3x224x224. Default: what config.json says.",
)
@option(
    "--data",
    group=INPUT,
    type=click.Path(path_type=Path),
    help="A folder of pictures (subfolders are classes), one picture, or .npy/.npz with `images` and `labels`, of the "
    "new size or larger. Default: smooth noise.",
)
@option("--labels", group=INPUT, type=click.Path(path_type=Path), help="Class numbers: .npy, or text, one a line.")
@option(
    "--limit",
    "most",
    group=INPUT,
    rare=True,
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="At most so many pictures of a folder, spread evenly.",
)
@option(
    "--mean",
    group=INPUT,
    type=values.numbers,
    metavar="X[,X...]",
    help="Subtracted from pixels of 0 to 1, per channel. Default: what the files beside SOURCE say, else 0.",
)
@option(
    "--std", group=INPUT, type=values.numbers, metavar="X[,X...]", help="Divides them then. Default: likewise, else 1."
)
@option(
    "--size",
    "side",
    group=INPUT,
    rare=True,
    type=click.IntRange(1),
    metavar="N",
    help="Shorter side of a picture before the crop to the new size. Default: what the files say, else the crop's.",
)
@option(
    "--forward",
    "runner",
    group=INPUT,
    metavar="MODULE:NAME",
    help="Function that runs a model with more inputs than the image: def run(model, x): return model(x, timestep=1).",
)
@option(
    "--timesteps",
    "times",
    group=INPUT,
    rare=True,
    type=values.numbers,
    metavar="T[,T...]",
    help="Times at which a denoiser is compared, in its unit. Default: .9, .6, .3 and .1 of its schedule.",
)
@option("--prompt", group=INPUT, rare=True, metavar="TEXT", help="Prompt, for a text-to-image pipeline.")
@option(
    "--allow-pickle", group=INPUT, rare=True, is_flag=True, help="Also read .bin, .pt, .pth and .ckpt (tensors only)."
)
@option(
    "--report",
    group=OUTPUT,
    type=click.Path(path_type=Path),
    help="Write a report with figures: one .html file that needs no network.",
)
@option("--figure", group=OUTPUT, type=click.Path(path_type=Path), help="Draw the errors by layer into this PNG file.")
@option("--json", "as_json", group=OUTPUT, is_flag=True, help="Print the result as JSON.")
def verify(
    source: str,
    converted: str,
    report: Path | None,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how much a converted checkpoint differs from the original.

    The original model runs on the input reduced to the trained size. The converted model runs on the full input. After
    each layer, the larger output is reduced and compared. It also shows how the original answers when the picture
    moves, since supersampled strides see moved pictures, and judges the difference. Needs torch, and runs the code that
    --model names. SOURCE and CONVERTED are files, or folders of transformers, timm or diffusers. Of a diffusion
    pipeline, the denoiser is compared at some times of its schedule.

    \b
        rekernel verify vit vit-2x --data photographs/ --report vit-2x.html
        rekernel verify cnn.safetensors cnn-2x.safetensors --model models.py:GlyphCNN --input 1x16x16
        rekernel verify sd15 sd15-2x --prompt 'a red bicycle' --timesteps 900,500,100
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Failure("verify needs torch to run the models: pip install torch") from None
    from rekernel.escape import shown
    from rekernel.torch import Verification

    from ..verifying.run import Request, compare, draw

    for path in (report, figure):  # before minutes of work
        if path is not None and not path.absolute().parent.is_dir():
            raise Failure(f"{shown(str(path.parent), 400)}: no such folder for {shown(path.name)}.")
        if path is not None and path.is_dir():
            raise Failure(f"{shown(str(path), 400)}: is a folder; give the file to write in it.")
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise Failure(f"--report {shown(report.name)}: the report is an HTML page; name it .html or .htm.")
    found = compare(Request(source, converted, **options))
    if figure is not None:
        if not isinstance(found, Verification):
            raise Failure("--figure draws errors by layer, which a denoiser's comparison has not; use --report.")
        draw(found, figure)
    if report is not None:
        title = f"{source} against {converted}"
        page = found.to_html(title, command=True) if isinstance(found, Verification) else found.to_html(title)
        report.write_text(page, encoding="utf-8")
    if as_json:
        from ..terminal import echo_json

        echo_json({"source": source, "converted": converted, **found.as_dict()})
        return
    from ..terminal import console

    if isinstance(found, Verification):
        from ..tables.verify import print_comparison

        print_comparison(console(), found)
    else:
        from ..tables.denoiser import print_denoisers

        print_denoisers(console(), found)
    for name, path in (("figure", figure), ("report", report)):
        if path is not None:
            click.echo(f"The {name} is {path}.")
