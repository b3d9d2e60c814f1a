"""`rekernel push`: publish a converted model on the Hugging Face Hub, with a model card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..help_layout import GroupedCommand
from ..options import OUTPUT, option

if TYPE_CHECKING:
    from rekernel.hub import Pushed

_REPOSITORY = "Repository"
_CARD = "Card and licence"


@click.command(cls=GroupedCommand)
@click.argument("source", metavar="FOLDER_OR_FILE", type=click.Path())
@click.argument("repo")
@option("--private", group=_REPOSITORY, is_flag=True, help="Create the repository as a private one.")
@option("--exist-ok", group=_REPOSITORY, is_flag=True, help="Add a commit to an existing repository.")
@option("--pr", group=_REPOSITORY, is_flag=True, help="Open a pull request on an existing repository.")
@option("--revision", group=_REPOSITORY, metavar="BRANCH", help="Commit to this branch instead of main.")
@option("--parent-commit", group=_REPOSITORY, metavar="SHA", help="Commit only if this is the head. Default: the head.")
@option("-m", "--message", group=_REPOSITORY, metavar="TEXT", help="Commit message. Default: the plan in one line.")
@option("--base-model", group=_CARD, metavar="ORG/NAME", help="Converted model, if the recipe does not name it.")
@option("--license", group=_CARD, metavar="ID", help="Licence of the base model, if its card has none.")
@option("--permitted", group=_CARD, is_flag=True, help="Publish with permission, although the licence forbids changes.")
@option(
    "--verified", group=_CARD, type=click.Path(), metavar="JSON", help="Output of `rekernel verify --json` to show."
)
@option("--figure", group=_CARD, type=click.Path(), metavar="PICTURE", help="Show this picture in the card.")
@option("--card", group=_CARD, type=click.Path(), metavar="FILE", help="Use this README.md instead of a generated one.")
@option("--dry-run", group=OUTPUT, is_flag=True, help="List files, sizes and notes; upload nothing.")
@option("-q", "--quiet", group=OUTPUT, is_flag=True, help="Print only errors, notes (and --json).")
@option("--json", "as_json", group=OUTPUT, is_flag=True, help="Print a report as JSON, including the card.")
def push(source: str, repo: str, dry_run: bool, quiet: bool, as_json: bool, **settings: Any) -> None:
    """Publish a converted model on the Hugging Face Hub, with a model card.

    One commit uploads the files that the conversion wrote or copied, without hidden files, caches and other weights.
    Licence and base model are those of the source. Run the same command again to continue a failed upload.

    \b
        rekernel push sd15-2x/ me/sd15-2x --dry-run
        rekernel push sd15-2x/ me/sd15-2x --private
        rekernel push unet-2x.safetensors me/unet-2x --base-model org/unet --pr
    """
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from rekernel.hub import push as publish

    from ..tables.plan import print_notes
    from ..terminal import console, own_notes

    settings["private"] = settings["private"] or None
    with own_notes():
        rehearsed = publish(Path(source), repo, dry_run=True, **settings)
        print_notes(console(stderr=True), rehearsed.notes)
        done = rehearsed if dry_run else publish(Path(source), repo, **settings)
    print_notes(console(stderr=True), [note for note in done.notes if note not in rehearsed.notes])
    if as_json:
        from ..terminal import echo_json

        echo_json({"dry_run": dry_run, **_document(done)})
    elif not quiet:
        _conclude(done, dry_run)


def _conclude(done: Pushed, dry_run: bool) -> None:
    from rekernel.escape import shown
    from rekernel.text import byte_size, counted

    from ..tables.push import print_files
    from ..terminal import console

    if dry_run:
        print_files(console(), done)
        click.echo("Dry run: nothing was uploaded.")
        return
    files = f"{counted(len(done.files), 'file')}, {byte_size(done.nbytes)}"
    if done.unchanged:
        click.echo(f"{done.repo} already holds these {files}; nothing was committed: {shown(done.url, 400)}")
    else:
        click.echo(f"Pushed {files}: {shown(done.url, 400)}")


def _document(done: Pushed) -> dict[str, Any]:
    from rekernel.messages.note import on_command_line

    return {
        "repo": done.repo,
        "url": done.url,
        "commit": done.commit,
        "unchanged": done.unchanged,
        "message": done.message,
        "files": [{"name": name, "bytes": nbytes} for name, nbytes in done.files],
        "left": [{"name": name, "reason": reason} for name, reason in done.left],
        "notes": [on_command_line(note) for note in done.notes],
        "card": done.card,
    }
