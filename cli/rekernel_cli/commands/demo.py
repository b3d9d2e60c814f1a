"""`rekernel demo`: convert two trained classifiers to 2x and 4x, and measure their accuracy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..help_layout import GroupedCommand
from ..main import Failure, Stopped
from ..options import OUTPUT, option


@click.command(cls=GroupedCommand)
@option(
    "--out",
    group=OUTPUT,
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("rekernel-demo"),
    show_default=True,
    help="Folder for the converted files, demo.json and demo.png.",
)
@option("--quiet", "-q", group=OUTPUT, is_flag=True, help="Print only errors; write the files.")
def demo(out: Path, quiet: bool) -> None:
    """Convert two small classifiers and measure their accuracy.

    rekernel contains an MLP and a CNN, both trained on 16x16 images of digits. The demo converts both to 32x32 and
    64x64 by each method, and tests the results on real images of these sizes. The demo takes two to four minutes on two
    cores.

    \b
        rekernel demo --out /tmp/demo
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise Failure("the demo needs torch to run the models: pip install torch") from None
    from rich.progress import Progress

    from rekernel.escape import shown_path

    from ..demonstration.figure import draw
    from ..demonstration.run import CNN_VARIANTS, MLP_VARIANTS, SCALES, measure
    from ..tables.demo import print_results
    from ..terminal import console

    _make(out)
    errors = console(stderr=True)
    with _stopping(out), Progress(console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
        task = progress.add_task("converting and testing", total=len(SCALES) * (len(MLP_VARIANTS) + len(CNN_VARIANTS)))
        results = measure(out, lambda steps: progress.advance(task, steps))
        (out / "demo.json").write_text(json.dumps(results, indent=2) + "\n")
        figure = draw(out)
    if quiet:
        return
    target = console()
    print_results(target, results)
    drawn = f"; the figure is {shown_path(figure)}" if figure else ""
    target.print(f"Converted files and demo.json are in {shown_path(out)}{drawn}.")
    if figure is None:
        target.print("No figure was drawn, since matplotlib is missing (pip install matplotlib).")


def _make(out: Path) -> None:
    """Make the folder, or raise where a file is in the way."""
    from rekernel.escape import shown_path

    above = next((path for path in out.parents if path.exists()), None)
    if above is not None and not above.is_dir():
        raise Failure(f"--out {shown_path(out)}: {shown_path(above)} is a file; name another folder")
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _stopping(out: Path) -> Iterator[None]:
    """Say what is left in the folder where the user stops."""
    from rekernel.escape import shown_path

    try:
        yield
    except KeyboardInterrupt:
        left = len([*out.iterdir()])
        if not left:
            out.rmdir()
            raise Stopped from None
        raise Stopped(f"{left} files are left in {shown_path(out)}; the same command replaces them.") from None
