"""Publish a converted model in one commit, which fails if the repository changed meanwhile.

Scope: the order of calls to huggingface_hub, which uploads, resumes, retries and shows progress. Not here: the choice
of files (see `hub.contents`), the card (see `hub.card`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.discover import OTHER_WEIGHTS
from ..checkpoint.paths import StrPath
from ..errors import Option, RekernelError
from ..escape import shown, shown_path
from ..messages.display import Displayed, Table, notes_table
from ..messages.log import logger, timed
from ..messages.note import Note
from ..messages.path_errors import explains_paths
from ..messages.progress_bar import Progress
from ..messages.warn import tell
from ..plan.config_file import HOW_TO_LOAD
from ..sources.address import Address, is_repo
from ..sources.hub_client import HeadMovedError, HubError, api, explained, hub
from ..text import byte_size, counted
from ..version import __version__
from .card import Story, checked_verification, model_card, summary
from .contents import CARD, Payload, payload
from .licence import Terms, terms_of
from .upload_progress import client_bars, uploaded_one_by_one

_LOG = logger(__name__)
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".svg")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_LARGEST_CARD = 1 << 22


@dataclass(frozen=True, repr=False)
class Pushed(Displayed):
    """The result of a push, or of a dry run.

    repo : the repository
    files : name and size of each file of the commit, with the card
    left : name and reason of each file that stays
    notes : warnings about the licence, the base model, or old weights in the repository
    message : message of the commit
    card : text of README.md
    url : address of the commit, or of the pull request; empty if nothing was uploaded
    commit : SHA of the commit
    unchanged : whether the repository held the same files already, so that there is no new commit
    """

    repo: str
    files: tuple[tuple[str, int], ...]
    left: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    message: str
    card: str
    url: str = ""
    commit: str = ""
    unchanged: bool = False

    def _line(self) -> str:
        where = shown(self.url, 400) if self.url else "nothing was uploaded"
        notes = f"; {counted(len(self.notes), 'note')}" if self.notes else ""
        return f"{self.repo}: {counted(len(self.files), 'file')}, {byte_size(self.nbytes)}; {where}{notes}"

    def _tables(self) -> Iterator[Table]:
        files = [(shown(name), byte_size(size)) for name, size in self.files]
        yield Table(counted(len(files), "file"), ("file", "size"), files)
        yield Table("not uploaded", ("file", "why"), [(shown(name), reason) for name, reason in self.left])
        yield notes_table(self.notes)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)


@explains_paths("path")
def push(
    path: StrPath,
    repo: str,
    *,
    private: bool | None = None,
    exist_ok: bool = False,
    pr: bool = False,
    revision: str | None = None,
    parent_commit: str | None = None,
    message: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    permitted: bool = False,
    card: StrPath | None = None,
    verified: StrPath | Mapping[str, Any] | None = None,
    figure: StrPath | None = None,
    dry_run: bool = False,
    token: str | None = None,
    progress: Progress | bool | None = None,
) -> Pushed:
    """Publish a converted file or folder on the Hugging Face Hub, in one commit, with a model card.

    Parameters
    ----------
    path : path
        The file or folder that `rekernel.convert` wrote. Hidden files, caches and other weights are not uploaded.
    repo : str
        Name of the repository to create, such as 'name/model'.
    private : bool, optional
        Whether a new repository is private; the default is the setting of its owner.
    exist_ok : bool
        Allow a repository that exists already.
    pr : bool
        Open a pull request, also on somebody else's repository, which has to exist.
    revision : str, optional
        The branch to commit to.
    parent_commit : str, optional
        The commit to build on; by default the head before the upload. If the repository has another head when the
        commit is made, nothing is committed.
    message : str, optional
        Message of the commit; by default the plan in one line.
    base_model : str, optional
        The repository that was converted, if the recipe does not name it.
    license : str, optional
        The Hub's identifier of the licence, if the card of the base model does not name it.
    permitted : bool
        Publish although the licence forbids changed versions, since its owner permitted you to.
    card : path, optional
        Your own README.md, instead of one made from the recipe.
    verified : path or mapping, optional
        Output of `rekernel verify --json`, for the card.
    figure : path, optional
        A picture for the card.
    dry_run : bool
        Only return the result that a push would have: upload and create nothing.
    token : str, optional
        Token for the Hub; by default the one from HF_TOKEN or `hf auth login`.
    progress : bool or callable, optional
        True shows the bars of huggingface_hub, and False hides them; the default is the client's own setting. A
        function is called with (bytes done, bytes in all) after each file, and the files are uploaded one by one.

    Returns
    -------
    Pushed

    Raises
    ------
    RekernelError
        Before anything is uploaded wherever possible.
    HubError
        If the Hub refuses a request; `HeadMovedError` if the repository got another commit.

    Warns
    -----
    RekernelWarning
        Each note of the result: about the licence and the base model before anything is uploaded, and about old weights
        in the repository afterwards.

    Examples
    --------
    >>> push("no/such/folder", "me/model-2x", dry_run=True)
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: no/such/folder: no such file or folder.
    """
    _check(repo, parent_commit, license, base_model)
    load = payload(path)
    story, source, notes = _story(load, base_model, license, token)
    if source.forbids and not permitted:
        raise RekernelError(
            f"{shown_path(path)}: {source.note} Nothing was uploaded; if its owner permitted it, say so: ",
            Option("permitted=True", "--permitted"),
            ".",
        )
    story = replace(story, verified=_verified(verified))
    extra: dict[str, bytes | Path] = {}
    if figure is not None:
        name, picture = _picture(Path(figure))
        story, extra[name] = replace(story, figure=name), picture
    text = _card(load, repo, story, card)
    extra[CARD] = text.encode()
    contents: dict[str, bytes | Path] = {**load.files, **extra}
    sizes = {n: len(c) if isinstance(c, bytes) else c.stat().st_size for n, c in sorted(contents.items())}
    said = message or summary(load, story.base)
    plan = Pushed(repo, tuple(sizes.items()), tuple(sorted(load.left.items())), tuple(notes), said, text)
    if dry_run:
        hub()  # raises if huggingface_hub is missing
    tell(plan.notes)
    if dry_run:
        return plan
    with client_bars(progress) as callback, timed(_LOG, f"push to {repo}"):
        done = _publish(plan, contents, load, private, exist_ok, pr, revision, parent_commit, token, callback)
    tell(done.notes[len(plan.notes) :])
    return done


def _check(repo: str, parent_commit: str | None, license: str | None, base_model: str | None) -> None:
    for name in filter(None, (repo, base_model)):
        if not is_repo(name):
            raise RekernelError(f"{shown(name)}: is not a valid name of a repository; write name/model.")
    if parent_commit is not None and not _COMMIT.fullmatch(parent_commit):
        raise RekernelError(f"{shown(parent_commit)}: is not a commit; pass a SHA of 7 to 40 hexadecimal digits.")
    if license is not None and terms_of({"license": license}).license != license:
        raise RekernelError(f"{shown(license)}: is not a licence of the Hub's list: apache-2.0, openrail++, other, ...")


def _publish(
    plan: Pushed,
    contents: Mapping[str, bytes | Path],
    load: Payload,
    private: bool | None,
    exist_ok: bool,
    pr: bool,
    revision: str | None,
    parent_commit: str | None,
    token: str | None,
    callback: Progress | None,
) -> Pushed:
    client, hf = hub(), api(token)
    where = Address(plan.repo, revision or "")
    with explained(where, wanted="write"):
        if not pr:
            _create(hf, plan.repo, private, exist_ok)
        # The commit builds on the head before the upload, which may take hours.
        head = hf.model_info(plan.repo, revision=revision)
        operations = [
            client.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in sorted(contents.items())
        ]
        try:
            if callback is not None:
                uploaded_one_by_one(
                    hf, plan.repo, operations, dict(plan.files), callback, revision=revision, create_pr=pr
                )
            done = hf.create_commit(
                plan.repo, operations, commit_message=plan.message, commit_description=_description(load),
                revision=revision, create_pr=pr, parent_commit=parent_commit or head.sha,
            )  # fmt: skip
        except client.errors.HfHubHTTPError as error:
            if error.response.status_code in (409, 412):
                expected = (parent_commit or head.sha)[:12]
                raise HeadMovedError(
                    f"{where}: the repository changed meanwhile: its head is no longer {expected}. Nothing was "
                    "committed; look at what happened there, then push again."
                ) from None
            raise
    notes = (*plan.notes, *_old_weights([sibling.rfilename for sibling in head.siblings or []], load))
    same = done.oid == head.sha  # huggingface_hub does not make empty commits
    return replace(plan, url=str(done.pr_url or done.commit_url), commit=str(done.oid), unchanged=same, notes=notes)


def _create(hf: Any, repo: str, private: bool | None, exist_ok: bool) -> None:
    """Create the repository. An empty repository, which a failed upload leaves behind, is accepted."""
    try:
        hf.create_repo(repo, private=private, exist_ok=exist_ok)
    except hub().errors.HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        there = {sibling.rfilename for sibling in hf.model_info(repo).siblings or []}
        if there - {".gitattributes"}:
            raise HubError(
                f"hf://{repo}: exists already; pass ",
                Option("exist_ok=True", "--exist-ok"),
                " to add a commit to it, or ",
                Option("pr=True", "--pr"),
                " to propose one.",
            ) from None


def _story(
    load: Payload, base_model: str | None, license: str | None, token: str | None
) -> tuple[Story, Terms, list[str]]:
    """Return the origin of the model, the terms of its source, and notes about both."""
    notes: list[str] = []
    origins = {(s.repo, s.commit) for recipe in load.recipes.values() for s in recipe.sources if s.repo}
    base, commit = origins.pop() if len(origins) == 1 else ("", "")
    if base and not is_repo(base):
        base, commit = "", ""
    if base_model and base_model != base:
        base, commit = base_model, ""
    if not base:
        name_it = Option("base_model='org/name'", "--base-model ORG/NAME")
        notes.append(Note("the base model is unknown: a file of the disk was converted; say it with ", name_it, "."))
    source, problem = _source_terms(load, base, commit, token)
    notes += [problem] if problem else []
    if source.note and (source.forbids or not license):
        notes.append(source.note)
    if license and source.license not in ("", license):
        notes.append(f"the source's card says {source.license}, this one is going to say {license}.")
    terms = replace(source, license=license) if license else source
    return Story(base, commit if _COMMIT.fullmatch(commit) else "", terms), source, notes


def _source_terms(load: Payload, base: str, commit: str, token: str | None) -> tuple[Terms, str]:
    """Read the terms from the copied card, or else from the card of the source on the Hub; return a problem if any."""
    if CARD in load.files:
        front = _front(load.files[CARD])
        if front or not base or not _only_how_to_load(load.files[CARD]):
            return terms_of(front), ""
    if not base:
        return Terms(), ""
    client = hub()
    try:
        with explained(Address(base, commit)):
            found = client.hf_hub_download(
                base, CARD, revision=commit or None, token=token, library_name="rekernel", library_version=__version__
            )
    except HubError as error:
        return Terms(), f"the source's card was not read: {error}"
    return terms_of(_front(Path(found))), ""


def _only_how_to_load(path: Path) -> bool:
    """Whether a README.md is the one that `save_pretrained` of a rescaled model makes: it says no licence."""
    return path.read_bytes().startswith(HOW_TO_LOAD.encode())


def _front(path: Path) -> Mapping[str, Any]:
    """Read the front matter of a card; empty if there is none, or it cannot be read."""
    if path.stat().st_size > _LARGEST_CARD:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if not text.lstrip().startswith("---"):  # the client would warn
            return {}
        data: Mapping[str, Any] = hub().ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # a YAML parser may raise any error for text from anyone
        if isinstance(error, RekernelError):
            raise
        return {}
    return data


def _card(load: Payload, repo: str, story: Story, own: StrPath | None) -> str:
    """Return the text of the user's card, of the card in the folder if it is of a rescaled model, or of a new card."""
    if own is not None:
        try:
            return Path(own).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise RekernelError(f"{shown_path(own)}: {reason}.") from None
    if CARD in load.files and "rekernel" in terms_of(_front(load.files[CARD])).tags:
        return load.files[CARD].read_text(encoding="utf-8")
    return model_card(load, repo, story)


def _verified(source: StrPath | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return checked_verification(dict(source))
    try:
        document = json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise RekernelError(f"{shown_path(source)}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise RekernelError(f"{shown_path(source)}: not JSON; pass the output of `rekernel verify --json`.") from None
    return checked_verification(document)


def _picture(path: Path) -> tuple[str, Path]:
    if path.suffix.lower() not in _PICTURES:
        raise RekernelError(
            f"{shown_path(path)}: is not a picture that a card can show; use one of {', '.join(_PICTURES)}."
        )
    if not path.is_file():
        raise RekernelError(f"{shown_path(path)}: no such file.")
    return f"rekernel{path.suffix.lower()}", path


def _old_weights(there: list[str], load: Payload) -> list[str]:
    """Return a note if the repository still holds weights that a loader may read instead of the new ones."""
    folders = {name.rpartition("/")[0] for name in load.checkpoints}
    old = [n for n in there if n.endswith(OTHER_WEIGHTS) and n not in load.files and n.rpartition("/")[0] in folders]
    if not old:
        return []
    names = ", ".join(shown(name) for name in old[:4]) + (f" and {len(old) - 4} more" if len(old) > 4 else "")
    return [f"the repository also holds {names}, which a loader may read instead of these; delete the old weights."]


def _description(load: Payload) -> str:
    digests = [
        f"source {s.sha256}" + (f" {shown(s.repo)}@{shown(s.commit)} {shown(s.path)}" if s.repo else "")
        for recipe in load.recipes.values() for s in recipe.sources[:16]
    ]  # fmt: skip
    return "\n".join([*dict.fromkeys(shown(r.tool) for r in load.recipes.values() if r.tool), *digests])
