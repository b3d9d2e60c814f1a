"""Import the Hub's client when it is needed, and turn its errors into one line that says what to do.

Scope: huggingface_hub and its exceptions. Not here: checkpoints. The client itself decides about endpoints
(HF_ENDPOINT), tokens (HF_TOKEN, `hf auth login`), offline mode (HF_HUB_OFFLINE), caching and retries.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import RekernelError
from ..escape import shown
from ..version import __version__

# The client raises its HTTP library's errors too, and that library changed between its versions.
_NETWORK = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "hf_xet")


class HubError(RekernelError):
    """The Hub, or the way there, refused: one line naming the repository, the reason and the way out."""


class HeadMovedError(HubError):
    """The repository is no longer at the commit that a change was to be built on."""


def hub() -> Any:
    """The module `huggingface_hub`.

    Raises
    ------
    HubError
        Where it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise HubError("the Hub needs its client: pip install 'rekernel[hub]'") from None
    return huggingface_hub


def api(token: str | None = None) -> Any:
    """The client's `HfApi`, which says who calls."""
    return hub().HfApi(token=token, library_name="rekernel", library_version=__version__)


def is_offline() -> bool:
    """Whether the client was told to stay off the network."""
    return bool(hub().constants.HF_HUB_OFFLINE)


def is_away(error: BaseException) -> bool:
    """Whether an error means that nobody answers: offline, no connection, or a server that fails."""
    foreign = type(error).__module__.partition(".")[0] in _NETWORK
    return foreign or isinstance(error, ConnectionError | TimeoutError) or (_status(error) or 0) >= 500


@contextmanager
def explained(address: object, *, wanted: str = "read") -> Iterator[None]:
    """Turn the client's errors into a `HubError` about `address`.

    Parameters
    ----------
    address : Address or str
        Begins every message.
    wanted : {'read', 'write'}
        The right that was needed.
    """
    try:
        yield
    except RekernelError:
        raise
    except Exception as error:
        line = _line(error, str(address), wanted)
        if line is None:
            raise
        raise HubError(f"{shown(str(address), 400)}: {line}") from None


def _line(error: BaseException, address: str, wanted: str) -> str | None:
    """What happened and what to do; None for an error that is none of the client's."""
    from huggingface_hub import errors

    while isinstance(error, RuntimeError | errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            break
        error = error.__cause__  # what a thread of the upload, or the cache's last resort, was about
    repo = address.removeprefix("hf://").partition("@")[0]
    repo = "/".join(repo.split("/")[:2])
    endpoint = _endpoint()
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        if is_offline():
            return "not all of it is in the cache, and HF_HUB_OFFLINE is set; unset it, or fetch it while online."
        return f"not in the cache, and {endpoint} does not answer; try again when it does."
    if isinstance(error, errors.GatedRepoError):
        return (
            f"is gated: accept its conditions at {endpoint}/{shown(repo)}, then `hf auth login` "
            "with a token of that account."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such branch, tag or commit in this repository."
    if isinstance(error, errors.EntryNotFoundError):
        return f"no such file in this repository ({_said(error)})."
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(wanted)
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error, repo, endpoint, wanted)
    if isinstance(error, errors.HFValidationError):
        return f"the client does not take this name ({_said(error)})."
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "needs a token: `hf auth login`."
    if is_away(error):
        return f"cannot reach {endpoint} ({_said(error) or type(error).__name__}); try again when it answers."
    if type(error).__module__.startswith("huggingface_hub"):
        return _said(error) + "."
    return _said(error) + "." if isinstance(error, OSError | ValueError) and _of_client(error) else None


def _by_status(error: Any, repo: str, endpoint: str, wanted: str) -> str:
    status = _status(error)
    said = _said(error)
    if status == 401 and _has_token():
        return (
            f"the token is not accepted; make another at {endpoint}/settings/tokens, "
            "then `hf auth login` (or set HF_TOKEN)."
        )
    if status == 403:
        right = "write to" if wanted == "write" else "read"
        return f"this token may not {right} {shown(repo)} ({said}); make one that may at {endpoint}/settings/tokens."
    if status in (401, 404):
        return _not_found(wanted)
    if status in (409, 412):
        return f"changed meanwhile ({said}); look at what happened there, then push again."
    if status == 429:
        return "too many requests, also after waiting; nothing is lost: the same command later goes on from there."
    if status is not None and status >= 500:
        return f"the server failed with {status} ({said}); the same command later goes on from there."
    return f"refused with {status} ({said})."


def _not_found(wanted: str) -> str:
    if wanted == "write" and not _has_token():
        return "needs a token that may write there: `hf auth login`, or set HF_TOKEN."
    first = "no such model repository" if wanted == "read" else "no such repository to write to"
    return f"{first}, or it is private and no token that may see it was given: check the name, or `hf auth login`."


def _status(error: BaseException) -> int | None:
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _said(error: BaseException) -> str:
    """The server's own words, or the error's first line, made harmless."""
    text = getattr(error, "server_message", None) or next(iter(str(error).strip().splitlines()), "")
    text = re.sub(r" \((Request ID|Amzn Trace ID|Amz CF ID): [^)]*\)", "", " ".join(str(text).split()))
    return shown(text, 200).rstrip(".")


def _of_client(error: BaseException) -> bool:
    """Whether the client's own code raised it: its ValueErrors carry no class of their own."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        last, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return last.startswith("huggingface_hub")


def _endpoint() -> str:
    return shown(str(hub().constants.ENDPOINT), 200)


def _has_token() -> bool:
    return bool(os.environ.get("HF_TOKEN")) or hub().get_token() is not None
