"""`rekernel demo`: two trained classifiers converted to 2x and 4x, and what they still know there."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..help_layout import GroupedCommand
from ..main import Failure
from ..options import OUTPUT, option


@click.command(cls=GroupedCommand)
@option(
    "--out",
    group=OUTPUT,
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("rekernel-demo"),
    show_default=True,
    help="Where the converted files, demo.json and demo.png go.",
)
@option("--quiet", "-q", group=OUTPUT, is_flag=True, help="Print nothing but errors; write the files.")
def demo(out: Path, quiet: bool) -> None:
    """Convert two small classifiers and measure what they still know.

    An MLP and a CNN, trained on 16x16 images of digits and shipped with rekernel, are converted to 32x32 and 64x64 by
    each method, and tested on true images of those sizes. Takes a minute or two.

    \b
        rekernel demo --out /tmp/demo
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Failure("the demo runs the models it converts, with torch: pip install 'rekernel[torch]'") from None
    from rich.progress import Progress

    from ..demonstration.figure import draw
    from ..demonstration.run import CNN_VARIANTS, MLP_VARIANTS, SCALES, measure
    from ..tables.demo import print_results
    from ..terminal import console

    out.mkdir(parents=True, exist_ok=True)
    errors = console(stderr=True)
    with Progress(console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
        task = progress.add_task("converting and testing", total=len(SCALES) * (len(MLP_VARIANTS) + len(CNN_VARIANTS)))
        results = measure(out, lambda steps: progress.advance(task, steps))
    (out / "demo.json").write_text(json.dumps(results, indent=2) + "\n")
    figure = draw(out)
    if quiet:
        return
    target = console()
    print_results(target, results)
    target.print(f"Converted files and demo.json are in {out}" + (f"; the figure is {figure}." if figure else "."))
    if figure is None:
        target.print("No figure: it needs matplotlib (pip install 'rekernel[bench]').")
