"""The option `--guidance` and the related options of `convert` and `sample`.

Scope: the text on the command line. Not here: checks of the values (see `rekernel.diffusion`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import completion
from .load_hint import pipeline_loader
from .main import Failure

if TYPE_CHECKING:
    from .options import Planning

_OF_KERNELS = ("--method", "--preset", "--include")
_ALLOWED = ("--scale", "--scale-w", "--scale-h", "--from", "--to", *_OF_KERNELS)


def options(text: str) -> dict[str, Any]:
    """Parse 'theta=1,eta=0.6' into arguments of `UpsampleGuidance`.

    `until` and `kernels` are settings of the kernels, `positions` (a method) and `temperature` those of the positions,
    and `cascade` has the strengths of a cascade.

    Examples
    --------
    >>> options("theta=1.3,levels=2,cascade=0.5/0.4")
    {'theta': 1.3, 'levels': 2, 'cascade': (0.5, 0.4)}
    """
    types, found = _types(), dict[str, Any]()
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in types:
            if not equals and "cascade" in found and _is_number(name):
                raise click.BadParameter(f"{part!r} is a strength of its own; join strengths with /: cascade=0.5/0.4")
            from rekernel.text import near

            meant = f"did you mean {word}=?" if (word := next(iter(near(name, types)), "")) else "write theta=1,eta=0.6"
            raise click.BadParameter(f"{part!r} is not NAME=VALUE with a name from {', '.join(types)}; {meant}")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice; give it once")
        try:
            found[name] = types[name](value)
        except ValueError:
            kind = {int: "a whole number", float: "a number"}.get(types[name], "a number, or several as in 0.5/0.4")
            raise click.BadParameter(f"{part!r}: {value!r} is not {kind}") from None
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _strengths(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split("/")))


def _types() -> dict[str, Any]:
    """Return the type of each setting: numbers first, then whole numbers, then words, then the strengths."""
    from rekernel.diffusion.guidance.settings import GuidanceSettings
    from rekernel.diffusion.kernels.settings import KernelSettings
    from rekernel.diffusion.positions.settings import PositionSettings

    types = {**GuidanceSettings.option_types(), "until": KernelSettings.option_types()["until"], "kernels": str}
    types |= {"temperature": PositionSettings.option_types()["temperature"], "positions": str}
    ordered = dict(sorted(types.items(), key=lambda item: (float, int, str).index(item[1])))
    return {**ordered, "cascade": _strengths}


def words() -> dict[str, Sequence[str]]:
    """Return the words that each setting may have, for completion; none for numbers."""
    from rekernel.diffusion.formulas.low_band import ENLARGE, REDUCE

    known = {"kernels": ("switched", "none"), "positions": position_methods(), "reduce": REDUCE, "enlarge": ENLARGE}
    return {name: known.get(name, ()) for name in _types()}


def position_methods() -> Sequence[str]:
    """Return the methods of positions."""
    from rekernel.diffusion.positions.frequencies import METHODS

    return METHODS


def complete(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    """Complete the value of `rekernel sample --guidance`: upsample, its settings, or none."""
    if not begun.startswith("upsample,"):
        return [word for word in ("upsample", "none") if word.startswith(begun)]
    own = {name: known for name, known in words().items() if name not in OF_OTHERS}
    return [
        f"upsample,{found}" for found in completion.settings(lambda: own)(ctx, param, begun.removeprefix("upsample,"))
    ]


OF_OTHERS = ("until", "kernels", "positions", "temperature", "cascade")
"""Settings that `rekernel sample` takes in options of their own."""


def parsed(value: Any) -> dict[str, Any]:
    """Like `options`; click also calls this function on the result, which is returned unchanged."""
    return value if isinstance(value, dict) else options(value)


def kernels_of(planning: Planning, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the switched kernels that the planning options set, with `until` from `--guidance`, or None."""
    if refused := [name for name in planning.typed if name not in _ALLOWED]:
        raise click.UsageError(
            f"{', '.join(refused)}: with --guidance the weights stay unchanged. The switched kernels take only "
            f"--method, --preset and --include, and until=0.7"
        )
    asked = "until" in given or bool(set(planning.typed) & set(_OF_KERNELS))
    until, word = given.pop("until", 1.0), given.pop("kernels", "switched" if asked else "none")
    if word not in ("switched", "none"):
        raise click.UsageError(
            f"--guidance kernels={word}: write kernels=switched or kernels=none; --method chooses their kind"
        )
    if word == "none":
        return None
    from rekernel.diffusion.kernels.settings import KernelSettings

    layers: Any = list(planning.raw["include"]) or planning.raw["preset"] or "inner"
    method = KernelSettings.method if planning.method == "auto" else planning.method
    found = {"layers": layers, "method": method}
    return {**found, "until": until} if until != 1 else found


def positions_of(given: dict[str, Any]) -> dict[str, Any] | None:
    """Take the settings of the positions out of those of `--guidance`, or return None for trained positions."""
    method, temperature = given.pop("positions", None), given.pop("temperature", None)
    if method is None:
        if temperature is not None:
            raise click.UsageError("--guidance temperature=: applies to rescaled positions; also give positions=METHOD")
        return None
    if method not in position_methods():
        from rekernel.text import choices

        raise click.UsageError(f"positions {method!r}: unknown; {choices(method, position_methods())}")
    return {"method": method} if temperature is None else {"method": method, "temperature": temperature}


def positions(text: str | None) -> dict[str, Any] | None:
    """Parse 'yarn,temperature=0.5' into arguments of `RescaledPositions`; None for none.

    Examples
    --------
    >>> positions("yarn,temperature=0.5"), positions("none")
    ({'method': 'yarn', 'temperature': 0.5}, None)
    """
    if text is None or text == "none":
        return None
    method, _, settings = text.partition(",")
    found = options(f"positions={method}" + (f",{settings}" if settings else ""))
    if other := sorted(found.keys() - {"positions", "temperature"}):
        raise click.UsageError(f"--positions {other[0]}=: write --positions METHOD or METHOD,temperature=0.5")
    return positions_of(found)


def record(
    source: str, target: str, planning: Planning, given: dict[str, Any],
    *, force: bool, dry_run: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run `rekernel convert --guidance`: copy the folder, and record in the copy what to attach."""
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise Failure("guidance needs diffusers: pip install diffusers transformers") from None
    from rekernel.diffusion import record
    from rekernel.escape import shown_path
    from rekernel.text import counted

    from .terminal import echo_json

    guidance = dict(given)
    cascade = guidance.pop("cascade", None)
    positions, scale = positions_of(guidance), planning.scale_of(source)
    kernels = kernels_of(planning, guidance)
    if planning.raw["component"]:
        raise click.UsageError("--component: guidance acts on the denoiser of the pipeline; omit --component")
    recorded = {"guidance": guidance, "kernels": kernels, "positions": positions, "cascade": cascade}
    made = record(source, target, scale, **recorded, force=force, dry_run=dry_run)
    parts: list[Any] = list(made.parts())
    if made.cascade is not None:
        parts.append(f"cascade at {', '.join(f'{strength:g}' for strength in made.cascade)}")
    if as_json:
        echo_json({"dry_run": dry_run, "target": target, "recorded": made.to_entry()})
    elif not quiet:
        verb = "Would record" if dry_run else "Recorded"
        click.echo(f"{verb} in {shown_path(target)}, with unchanged weights ({counted(len(parts), 'part')}):")
        for part in parts:
            click.echo(f"  {part}")
        if not dry_run:
            click.echo(f"Load it: {pipeline_loader(Path(target))}")
