"""`rekernel convert`: rescale the weights of a checkpoint and write a new one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from .. import completion, names, values
from .. import guidance_options as guiding
from ..help_layout import GroupedCommand
from ..main import Failure, Stopped
from ..options import OUTPUT, Planning, option, planning_options
from ..workers import Workers, worker_options

if TYPE_CHECKING:
    from rekernel import Plan, Report

_NOTES = 8
_LARGEST_PLAN = 1 << 28
_MAKE_PLAN = "make a plan with `rekernel plan SOURCE --scale 2 --json > plan.json`"


@click.command(cls=GroupedCommand)
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@planning_options
@worker_options
@option(
    "--plan",
    "plan_file",
    group=OUTPUT,
    rare=True,
    type=click.File("rb"),
    metavar="FILE",
    help="Use a plan of `rekernel plan --json` (- is stdin); allows only options of Input, Workers and Output.",
)
@option(
    "--guidance",
    group=OUTPUT,
    type=guiding.parsed,
    shell_complete=completion.settings(guiding.words),
    metavar="K=V,...",
    help="Keep the weights; record settings for sampling: theta=1,cascade=0.5/0.4, positions=yarn, kernels=switched,\n"
    "... (enlarge= is guidance's U).",
)
@option("--dry-run", group=OUTPUT, is_flag=True, help="Print the plan and the size; write nothing.")
@option(
    "--dtype",
    group=OUTPUT,
    rare=True,
    type=values.dtype,
    shell_complete=completion.words(names.dtypes),
    metavar="DTYPE",
    help="Cast float tensors to F16, BF16, F32 or F64.",
)
@option(
    "--max-shard-size",
    group=OUTPUT,
    rare=True,
    type=values.byte_count,
    metavar="SIZE",
    help="Write a folder of files of at most this size (5GB, 800MB, 1.5GiB), with an index.",
)
@option("--resume", group=OUTPUT, is_flag=True, help="Continue an interrupted conversion.")
@option("--force", group=OUTPUT, is_flag=True, help="Replace TARGET; it stays whole until the end.")
@option("-q", "--quiet", group=OUTPUT, is_flag=True, help="Print only errors (and --json).")
@option("--json", "as_json", group=OUTPUT, is_flag=True, help="Print a report as JSON, including the plan.")
def convert(
    source: str,
    target: str,
    planning: Planning,
    plan_file: BinaryIO | None,
    guidance: dict[str, Any] | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    dtype: str | None,
    max_shard_size: int | None,
    resume: bool,
    force: bool,
    jobs: int | None,
    dask: str | None,
    part: str | None,
    finish: bool,
) -> None:
    """Rescale the weights in SOURCE and write TARGET; SOURCE is never changed.

    SOURCE may be on the Hub: hf://org/name[@revision][/folder or file]. Both may be in a store: s3://bucket/folder.
    TARGET is a file if SOURCE is a file (*.onnx for an ONNX model), else a folder. TARGET appears complete or not at
    all. Unchanged tensors keep every byte. Many files or machines: --jobs, --dask, --part (see --help-all).

    \b
        rekernel convert unet.safetensors unet-2x.safetensors --scale 2
        rekernel convert sd15/ sd15-wide/ --from 512x512 --to 1024x768 --component unet
        rekernel convert hf://org/vit vit-384/ --to 384x384 --dry-run
        rekernel convert sd15/ sd15-guided/ --scale 2 --guidance theta=1,eta=0.6
    """
    workers = Workers(jobs, dask, part, finish)
    if guidance is not None:
        if plan_file is not None or dtype or max_shard_size or resume or workers != Workers():
            raise click.UsageError(
                "--guidance keeps the weights, so it excludes --plan, --dtype, --max-shard-size, --resume, --jobs, "
                "--dask, --part and --finish."
            )
        guiding.record(source, target, planning, guidance, force=force, dry_run=dry_run, quiet=quiet, as_json=as_json)
        return
    ready = None
    if plan_file is not None:
        planning.refuse("--plan already sets this; give the options to `rekernel plan`, or omit --plan.")
        ready = _read_plan(plan_file)
    writing = {"dtype": dtype, "max_shard_size": max_shard_size}
    if dry_run:
        _rehearse(source, target, planning, ready, writing, as_json=as_json, quiet=quiet)
        return
    if quiet:  # the client of the Hub draws progress bars too
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    writing |= {"resume": resume, "force": force}
    report = _perform(source, target, planning, ready, writing, workers, quiet=quiet)
    if as_json:
        from ..terminal import echo_json

        echo_json(_document(report))
    elif not quiet:
        _conclude(source, report, allow_pickle=planning.reading["allow_pickle"])


def _read_plan(file: BinaryIO) -> Plan:
    from rekernel import Plan, RekernelError
    from rekernel.escape import inert, shown

    where = shown(str(getattr(file, "name", "-")), 400)
    raw = file.read(_LARGEST_PLAN + 1)
    try:
        if len(raw) > _LARGEST_PLAN:
            raise Failure(f"--plan {where}: is larger than {_LARGEST_PLAN} bytes, too large for a plan.")
        return Plan.from_json(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise Failure(f"--plan {where}: is not text; {_MAKE_PLAN}.") from None
    except RekernelError as error:
        raise Failure(
            f"--plan {where}: {inert(error.on_command_line()).removeprefix('plan: ').rstrip('.')}; {_MAKE_PLAN}."
        ) from None


def _rehearse(
    source: str,
    target: str,
    planning: Planning,
    ready: Plan | None,
    writing: dict[str, Any],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print what the conversion would do, without writing."""
    from rekernel.offline import estimate, plan_source

    from ..terminal import own_notes

    if ready is not None:
        [name] = _names(source, planning.components)
        plans = {name: ready}
    else:
        keywords = planning.keywords()
        with own_notes():
            plans = plan_source(
                source, components=planning.components, **planning.asked(), **planning.reading, **keywords
            )
    expected = estimate(source, plans, **writing, allow_pickle=planning.reading["allow_pickle"])
    if as_json:
        from ..terminal import echo_json

        echo_json(
            {
                "dry_run": True,
                "target": target,
                "output_bytes": expected.output_bytes,
                "peak_memory": expected.peak_memory,
                "files": [{"name": name, "bytes": nbytes} for name, nbytes in expected.files],
                "plans": _plans(plans),
            }
        )
    elif not quiet:
        from ..tables.plan import print_dead_ends, print_estimate, print_plans
        from ..terminal import console

        out = console()
        print_plans(out, plans, source)
        print_dead_ends(out, plans)
        print_estimate(out, expected)
        click.echo("Dry run: nothing was written.")


def _names(source: str, components: list[str] | None) -> list[str]:
    """Return the name of the component that a ready plan is for; '' if SOURCE is not a pipeline."""
    from rekernel.conversion.parts import parts_of
    from rekernel.sources.opening import open_location

    with open_location(source) as place:
        names = [*parts_of(place.path, components)]
    if len(names) > 1:
        raise click.UsageError(f"--plan holds one plan, but SOURCE has {len(names)} components; give one --component.")
    return names


def _perform(
    source: str,
    target: str,
    planning: Planning,
    ready: Plan | None,
    writing: dict[str, Any],
    workers: Workers,
    *,
    quiet: bool,
) -> Report:
    import rekernel
    from rekernel.conversion.aside import unfinished
    from rekernel.conversion.store_journal import is_unfinished
    from rekernel.sources.store_address import store_address

    from ..terminal import byte_progress, own_notes

    common = {**writing, **planning.reading, "components": planning.components}
    try:
        with (
            workers.keywords() as sharing, own_notes(), byte_progress("converting", quiet=quiet) as progress
        ):  # fmt: skip
            common |= sharing
            if ready is not None:
                return rekernel.convert(source, target, plan=ready, progress=progress, **common)
            keywords, asked = planning.keywords(), planning.asked()
            return rekernel.convert(source, target, progress=progress, **asked, **common, **keywords)
    except KeyboardInterrupt:
        stored = store_address(target)
        if unfinished(Path(target)) is not None if stored is None else is_unfinished(stored):
            raise Stopped("finished files are kept: the same command with --resume continues from there.") from None
        raise Stopped from None


def _conclude(source: str, report: Report, *, allow_pickle: bool) -> None:
    """Print what was written, how to load it and how to check it; notes go to stderr."""
    from rekernel.conversion.report import StoredReport
    from rekernel.escape import shown_path
    from rekernel.text import byte_size, counted

    from ..load_hint import how_to_check, how_to_load
    from ..tables.plan import print_notes
    from ..terminal import console

    notes = console(stderr=True)
    for plan in report.plans.values():
        print_notes(notes, plan.warnings, _NOTES)
    print_notes(notes, report.told())
    if report.part:
        click.echo(
            f"Part {report.part}: {counted(len(report.files), 'file')} of weights written aside; when all parts are, "
            f"the same command with --finish makes {shown_path(report.target)}."
        )
        return
    where = shown_path(report.target)
    taken = f", {counted(report.resumed, 'file')} taken over" if report.resumed else ""
    around = sum(bool(change.factors) for plan in report.plans.values() for change in plan.changed)
    dilated = f", {counted(around, 'layer')} dilated around kept weights" if around else ""
    click.echo(
        f"Wrote {where}: {byte_size(report.nbytes)} in {counted(len(report.files), 'file')}{taken}; "
        f"{counted(report.tensors_changed - around, 'tensor')} rescaled{dilated}, "
        f"{report.tensors_kept + around:,} kept."
    )
    if report.tensors_changed and not isinstance(report, StoredReport):
        click.echo(how_to_load(report))
        if check := how_to_check(source, report, allow_pickle=allow_pickle):
            click.echo(check)


def _document(report: Report) -> dict[str, Any]:
    return {
        "target": str(report.target),
        "files": [{"path": str(path), "bytes": size} for path, size in zip(report.files, report.sizes, strict=True)],
        "bytes_written": report.bytes_written,
        "tensors_changed": report.tensors_changed,
        "tensors_kept": report.tensors_kept,
        "resumed": report.resumed,
        "skipped": [str(path) for path in report.skipped],
        "notes": list(report.notes),
        "plans": _plans(report.plans),
    }


def _plans(plans: Mapping[str, Plan]) -> dict[str, Any]:
    return {name: json.loads(plan.to_json(kept=False)) for name, plan in plans.items()}
