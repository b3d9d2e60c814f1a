"""`rekernel sample`: pictures from a diffusion model above its trained size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import guidance as guiding
from . import values
from .layout import GroupedCommand
from .main import Failure
from .options import OUTPUT, option

_SAMPLING = "Sampling"
_ABOVE = "Above the trained size"


def _size(text: str) -> tuple[int, int]:
    """'32' or '48x32' as (height, width)."""
    return values.size(f"{text}x{text}" if text.isdecimal() else text)


@click.command(cls=GroupedCommand)
@click.argument("source", type=click.Path())
@option("--size", group=_SAMPLING, type=_size, metavar="N|WxH", help="Pixels. Default: the pipeline's own size.")
@option("--count", group=_SAMPLING, type=click.IntRange(1, 1024), default=16, show_default=True, help="Pictures.")
@option("--steps", group=_SAMPLING, type=click.IntRange(1), default=20, show_default=True, help="Sampling steps.")
@option("--seed", group=_SAMPLING, type=int, default=0, show_default=True, help="Of the noise.")
@option("--classes", group=_SAMPLING, metavar="LIST", help="Of a class-conditional model: 0,1,2 or 0-9, in turn.")
@option(
    "--cfg",
    group=_SAMPLING,
    type=float,
    help="Classifier-free guidance, 1 for none. Default: the pipeline's own; none for a network on pixels, whose last\n"
    "class is taken for no class.",
)
@option("--prompt", group=_SAMPLING, metavar="TEXT", help="Of a text-to-image pipeline.")
@option(
    "--guidance",
    group=_ABOVE,
    metavar="upsample[,K=V...]|none",
    help="upsample, or with settings: upsample,theta=1.5,eta=1. Default: as the folder records, else none.",
)
@option(
    "--kernels",
    group=_ABOVE,
    metavar="METHOD|none",
    help="Rescale the kernels while sampling: optimal, dilate, cubic, ... Default: as recorded, else none.",
)
@option("--layers", group=_ABOVE, metavar="PRESET", default="inner", show_default=True, help="Which: inner or all.")
@option(
    "--until",
    group=_ABOVE,
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the schedule with rescaled kernels, from the noisy end.",
)
@option(
    "--out",
    "-o",
    group=OUTPUT,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default=Path("samples.png"),
    show_default=True,
    help="The picture grid, a PNG.",
)
@option("--force", group=OUTPUT, is_flag=True, help="Replace FILE where it exists.")
@option("--quiet", "-q", group=OUTPUT, is_flag=True, help="Print nothing but errors.")
def sample(
    source: str, size: tuple[int, int] | None, count: int, steps: int, seed: int, classes: str | None,
    cfg: float | None, prompt: str | None, guidance: str | None, kernels: str | None, layers: str, until: float,
    out: Path, force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Sample the diffusers pipeline in SOURCE and write a grid of pictures.

    SOURCE is a folder, or on the Hub: hf://org/name[@revision]. At its trained size it is the model itself. Above it,
    upsample guidance and rescaled kernels are what rekernel adds; the same seed gives the same noise with and without
    them.

    \b
        rekernel sample examples/glyph_diffusion --size 32 --guidance upsample --kernels optimal
    """
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise Failure("sampling needs diffusers and torch: pip install 'rekernel[diffusion]'") from None
    from rekernel.diffusion.pipelines import pipeline_folder
    from rekernel.errors import RekernelError
    from rekernel.escape import shown, shown_path

    from .sample_run import Request, make_grid

    if out.exists() and not force:
        raise Failure(f"{shown_path(out)}: exists; pass --force to replace it, or another --out")
    wanted: Any = None
    if guidance is not None and guidance != "none":
        name, _, settings = guidance.partition(",")
        if name != "upsample":
            raise click.UsageError(f"--guidance {guidance!r}: write upsample, upsample,theta=1.5 or none")
        wanted = guiding.options(settings)
        if wanted.keys() & {"until", "kernels"}:
            raise click.UsageError("--guidance: until and kernels are options of their own here")
    switched = (
        None if kernels in (None, "none") else {"method": values.method(kernels), "layers": layers, "until": until}
    )
    try:
        request = Request(
            pipeline_folder(source, {}), size, count, steps, seed, classes, cfg, prompt,
            guidance=wanted, kernels=switched, recorded=guidance is None and kernels is None,
        )  # fmt: skip
        said = make_grid(request, out, quiet=quiet)
    except ValueError as error:  # diffusers' own refusals
        if isinstance(error, RekernelError):
            raise
        raise Failure(f"{shown(source, 400)}: {str(error).splitlines()[0] if str(error) else error!r}") from None
    if not quiet:
        for line in said:
            click.echo(line)
