"""`rekernel sample`: sample pictures from a diffusion model, at and above the trained size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from .. import completion, names, values
from .. import guidance_options as guiding
from ..help_layout import GroupedCommand
from ..main import Failure
from ..options import INPUT, OUTPUT, option

_SAMPLING = "Sampling"
_ABOVE = "Above the trained size"


def _size(text: str) -> tuple[int, int]:
    """Read '32' or '48x32' as (height, width)."""
    return values.size(f"{text}x{text}" if text.isdecimal() else text)


def _picture(ctx: click.Context, param: click.Parameter, path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise click.BadParameter(f"{path.name!r} does not end in .png; the output is a PNG file")
    return path


@click.command(cls=GroupedCommand)
@click.argument("source", type=click.Path())
@option("--size", group=_SAMPLING, type=_size, metavar="N|WxH", help="Size in pixels. Default: the pipeline's size.")
@option(
    "--count", group=_SAMPLING, type=click.IntRange(1, 1024), default=16, show_default=True, help="Number of images."
)
@option("--steps", group=_SAMPLING, type=click.IntRange(1), default=20, show_default=True, help="Number of steps.")
@option(
    "--seed",
    group=_SAMPLING,
    type=values.seed,
    metavar="N",
    default="0",
    show_default=True,
    help="Seed of the initial noise.",
)
@option(
    "--classes",
    group=_SAMPLING,
    type=values.classes,
    metavar="LIST",
    help="Classes to draw in turn: 0,1,2 or 0-9.",
)
@option(
    "--cfg",
    group=_SAMPLING,
    type=values.number,
    metavar="X",
    help="Scale of classifier-free guidance; 1 turns it off. Default: the pipeline's; for a network of pixels 1, and\n"
    "its last class stands for no class.",
)
@option("--prompt", group=_SAMPLING, metavar="TEXT", help="Prompt, for a text-to-image pipeline.")
@option(
    "--guidance",
    group=_ABOVE,
    metavar="upsample[,K=V...]|none",
    shell_complete=guiding.complete,
    help="Guidance: upsample, or with settings: upsample,theta=1.5,eta=1. Default: as recorded, else none.",
)
@option(
    "--kernels",
    group=_ABOVE,
    metavar="METHOD|none",
    shell_complete=completion.words(names.methods, "none"),
    help="Rescale kernels while sampling: optimal, dilate, cubic, ... Default: as recorded, else none.",
)
@option(
    "--cascade",
    group=_ABOVE,
    multiple=True,
    metavar="STRENGTH|none",
    shell_complete=completion.words(lambda: ("0.5", "none")),
    help="Trained size first, then larger: 0.5 makes half of the steps again. Repeat it for each doubling:\n"
    "--cascade 0.5 --cascade 0.3. Default: as recorded, else none.",
)
@option(
    "--layers",
    group=_ABOVE,
    metavar="PRESET",
    shell_complete=completion.presets,
    default="inner",
    show_default=True,
    help="Layers: inner or all.",
)
@option(
    "--until",
    group=_ABOVE,
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Fraction of the schedule with rescaled kernels, from the noisy end.",
)
@option(
    "--positions",
    group=_ABOVE,
    metavar="METHOD|none",
    shell_complete=completion.words(guiding.position_methods, "none"),
    help="Rescale a transformer's positions: interpolate, ntk, yarn, dype; or METHOD,temperature=0.5. Default: as\n"
    "recorded, else none.",
)
@option(
    "--out",
    "-o",
    group=OUTPUT,
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_picture,
    metavar="FILE",
    default=Path("samples.png"),
    show_default=True,
    help="PNG file for the grid of pictures.",
)
@option(
    "--allow-code",
    group=INPUT,
    rare=True,
    is_flag=True,
    help="Run the Python code in SOURCE (pipeline.py), if it has any. Only for a folder, and only if you trust it.",
)
@option("--force", group=OUTPUT, is_flag=True, help="Replace FILE if it exists.")
@option("--quiet", "-q", group=OUTPUT, is_flag=True, help="Print only errors.")
def sample(
    source: str, size: tuple[int, int] | None, count: int, steps: int, seed: int,
    classes: tuple[range, ...] | None,
    cfg: float | None, prompt: str | None, guidance: str | None, kernels: str | None, cascade: tuple[str, ...],
    layers: str, until: float, positions: str | None, out: Path, allow_code: bool, force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Sample the diffusers pipeline in SOURCE and write a grid of pictures.

    SOURCE is a folder, or on the Hub: hf://org/name[@revision]. Above the trained size, rekernel can add guidance, and
    rescaled kernels or positions. The same seed gives the same initial noise with and without them; a cascade starts
    at the trained size.

    \b
        rekernel sample examples/glyph_diffusion --size 32 --guidance upsample --kernels optimal
    """
    if prompt is None:
        _check_prompt(Path(source))
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise Failure("sampling needs diffusers and torch: pip install torch diffusers transformers") from None
    from rekernel.diffusion.pipelines.load import pipeline_folder
    from rekernel.escape import shown, shown_path

    from ..sampling.request import Request
    from ..sampling.run import make_grid
    from ..user_code import running

    if not out.absolute().parent.is_dir():
        raise Failure(f"--out {shown_path(out)}: there is no folder {shown_path(out.parent)}; make it first")
    if out.exists() and not force:
        raise Failure(f"{shown_path(out)}: exists; pass --force to replace it, or another --out")
    wanted: Any = None
    if guidance is not None and guidance != "none":
        name, _, settings = guidance.partition(",")
        if name != "upsample":
            raise click.UsageError(f"--guidance {guidance!r}: write upsample, upsample,theta=1.5 or none")
        wanted = guiding.options(settings)
        if named := sorted(wanted.keys() & {*guiding.OF_OTHERS}):
            flag = "--positions METHOD,temperature=X" if named[0] == "temperature" else f"--{named[0]}"
            raise click.UsageError(f"--guidance: use {flag} instead of {named[0]}=")
    switched = (
        None if kernels in (None, "none") else {"method": values.method(kernels), "layers": layers, "until": until}
    )
    if switched is None and (unused := _typed("layers", "until")):
        raise click.UsageError(f"{' and '.join(unused)}: applies to rescaled kernels; also give --kernels METHOD")
    if allow_code and not Path(source).is_dir():
        raise click.UsageError(
            "--allow-code: runs only the code of a folder of your own; download the repository, read its code, and "
            "pass its folder"
        )
    with running(f"finding {shown(source, 400)}"):
        folder = pipeline_folder(source, {})
    request = Request(
        folder, size, count, steps, seed, classes, cfg, prompt,
        guidance=False if guidance == "none" else wanted, kernels=False if kernels == "none" else switched,
        positions=False if positions == "none" else guiding.positions(positions), cascade=_strengths(cascade),
        allow_code=allow_code,
    )  # fmt: skip
    said = make_grid(request, out, quiet=quiet)
    if not quiet:
        for line in said:
            click.echo(line)


def _check_prompt(folder: Path) -> None:
    """Raise for a local pipeline with a text encoder: it needs a prompt. Before imports that take seconds and warn."""
    from rekernel.checkpoint.pipeline_folder import find_pipeline

    pipeline = find_pipeline(folder)
    if pipeline is None or pipeline.brings_code or "text_encoder" not in pipeline.components:
        return
    from rekernel.escape import shown

    kind = shown(str(pipeline.index.get("_class_name")))
    raise Failure(f"--prompt: {kind} draws what a text says; pass --prompt TEXT")


def _strengths(given: tuple[str, ...]) -> tuple[float, ...] | Literal[False] | None:
    """Read the strengths of a cascade, each in an option of its own or as in 0.5/0.3; False for no cascade."""
    if not given:
        return None
    if given == ("none",):
        return False
    try:
        return tuple(float(strength) for each in given for strength in each.split("/"))
    except ValueError:
        typed = " ".join(f"--cascade {each}" for each in given)
        raise click.UsageError(
            f"{typed}: write a number such as 0.5, or none; repeat it for each doubling: --cascade 0.5 --cascade 0.3"
        ) from None


def _typed(*names: str) -> list[str]:
    ctx = click.get_current_context()
    return [f"--{name}" for name in names if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
