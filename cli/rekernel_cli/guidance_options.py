"""What `--guidance` and its neighbours say, for `convert` and `sample`.

Knows the text on the command line; the library checks the values.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .load_hint import pipeline_loader
from .main import Failure
from .terminal import counted, echo_json

if TYPE_CHECKING:
    from .options import Planning

_ALLOWED = ("--scale", "--from", "--to", "--method", "--preset", "--include")


def options(text: str) -> dict[str, Any]:
    """'theta=1,eta=0.6' as arguments of `UpsampleGuidance`; `until` and `kernels` are of the kernels beside it.

    Examples
    --------
    >>> options("theta=1.3,levels=2")
    {'theta': 1.3, 'levels': 2}
    """
    types, found = _types(), dict[str, Any]()
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in types:
            known = ", ".join(types)
            raise click.BadParameter(f"{part!r} is no NAME=VALUE with a name of {known}; write theta=1,eta=0.6")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice")
        try:
            found[name] = types[name](value)
        except ValueError:
            raise click.BadParameter(
                f"{part!r}: {value!r} is no {'whole ' if types[name] is int else ''}number"
            ) from None
    return found


def _types() -> dict[str, type]:
    """What each option is: numbers first, then whole numbers, then words."""
    from rekernel.diffusion.guidance.settings import GuidanceSettings
    from rekernel.diffusion.kernels.settings import KernelSettings

    types = {**GuidanceSettings.option_types(), "until": KernelSettings.option_types()["until"], "kernels": str}
    return dict(sorted(types.items(), key=lambda item: (float, int, str).index(item[1])))


def parsed(value: Any) -> dict[str, Any]:
    """As `options`; click calls it on its own result too."""
    return value if isinstance(value, dict) else options(value)


def kernels_of(planning: Planning, given: dict[str, Any]) -> dict[str, Any] | None:
    """The switched kernels that the planning options describe, less what `--guidance` says of them; None for none."""
    if refused := [name for name in planning.typed if name not in _ALLOWED]:
        raise click.UsageError(
            f"{', '.join(refused)}: with --guidance the weights stay as they are and kernels are switched while "
            f"sampling, by --method, --preset or --include, and until=0.7"
        )
    until, word = given.pop("until", 1.0), given.pop("kernels", "switched")
    if word not in ("switched", "none"):
        raise click.UsageError(f"--guidance kernels={word}: write kernels=none, or --method for another kind")
    if word == "none":
        return None
    layers: Any = list(planning.raw["include"]) or planning.raw["preset"] or "inner"
    found = {"layers": layers, "method": planning.raw["method"]}
    return {**found, "until": until} if until != 1 else found


def record(
    source: str, target: str, planning: Planning, given: dict[str, Any],
    *, force: bool, dry_run: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """`rekernel convert --guidance`: the folder copied, and what to attach recorded in it."""
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise Failure("guidance is for diffusers pipelines: pip install 'rekernel[diffusion]'") from None
    from rekernel.diffusion import record
    from rekernel.escape import shown_path

    guidance = dict(given)
    kernels, scale = kernels_of(planning, guidance), planning.scale
    if planning.raw["component"]:
        raise click.UsageError("--component: guidance acts on the denoiser of the pipeline; leave it out")
    made = record(source, target, scale, guidance=guidance, kernels=kernels, force=force, dry_run=dry_run)
    parts = [part for part in (made.make_kernels(), made.make_guidance()) if part is not None]
    if as_json:
        echo_json({"dry_run": dry_run, "target": target, "recorded": made.to_entry()})
    elif not quiet:
        verb = "Would record" if dry_run else "Recorded"
        click.echo(f"{verb} in {shown_path(target)}, its weights as they were ({counted(len(parts), 'part')}):")
        for part in parts:
            click.echo(f"  {part!r}")
        if not dry_run:
            click.echo(f"Load it: {pipeline_loader(Path(target))}")
