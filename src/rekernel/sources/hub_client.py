"""Import huggingface_hub on demand, and turn its errors into one line that names the remedy.

Scope: huggingface_hub and its exceptions. Not here: repositories and their files (see `sources.hub_place`). The client
itself handles endpoints (HF_ENDPOINT), tokens (HF_TOKEN, `hf auth login`), offline mode (HF_HUB_OFFLINE), caching and
retries.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import RekernelError
from ..escape import shown
from ..version import __version__

# The client also raises errors of its HTTP library, which differs between versions of the client.
_NETWORK = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "hf_xet")


class HubError(RekernelError):
    """The Hub refused a request or cannot be reached. The message names the repository, the reason and the remedy."""


class HeadMovedError(HubError):
    """The repository got another commit after the one that a change builds on."""


class NotTheHubError(Exception):
    """An answer that the Hub does not give; `explained` turns the error into a `HubError`."""


def hub() -> Any:
    """Import the module `huggingface_hub`.

    Raises
    ------
    HubError
        If the module is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise HubError("the Hub needs the package huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub


def api(token: str | None = None) -> Any:
    """Return an `HfApi` that reports rekernel and its version to the Hub."""
    return hub().HfApi(token=token, library_name="rekernel", library_version=__version__)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the client to use the network."""
    return bool(hub().constants.HF_HUB_OFFLINE)


def is_away(error: BaseException) -> bool:
    """Whether an error means that the Hub does not answer: offline mode, no connection, or a failing server."""
    foreign = type(error).__module__.partition(".")[0] in _NETWORK
    return foreign or isinstance(error, ConnectionError | TimeoutError) or (_status(error) or 0) >= 500


def is_foreign(error: BaseException) -> bool:
    """Whether the client could not read an answer, as where a network shows its own page instead of the Hub's."""
    if isinstance(error, NotTheHubError):
        return True
    if isinstance(error, RekernelError) or type(error).__module__.startswith("huggingface_hub"):
        return False
    modules = _modules(error)
    ours = [at for at, module in enumerate(modules) if module.startswith("huggingface_hub")]
    behind = {module.partition(".")[0] for module in modules[ours[-1] + 1 :]} if ours else set()
    if not ours or not behind <= {*sys.stdlib_module_names, *_NETWORK}:  # a library that uses the client raised it
        return False
    raised_on_purpose = isinstance(error, ValueError) and modules[-1].startswith("huggingface_hub")
    kinds = (ValueError, TypeError, LookupError, AttributeError)
    return isinstance(error, kinds) and not raised_on_purpose


@contextmanager
def explained(address: object, *, wanted: str = "read") -> Iterator[None]:
    """Turn the client's errors into a `HubError` about `address`.

    Parameters
    ----------
    address : Address or str
        Address at the beginning of every message.
    wanted : {'read', 'write'}
        The permission that the request needed.
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
    """Describe an error and its remedy; None for an error that does not come from the client."""
    from huggingface_hub import errors

    while isinstance(error, RuntimeError | errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            break
        error = error.__cause__  # the cause of an error in an upload thread or in a look-up in the cache
    repo = address.removeprefix("hf://").partition("@")[0]
    repo = "/".join(repo.split("/")[:2])
    endpoint = _endpoint()
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        if is_offline():
            return "not all of it is in the cache, and HF_HUB_OFFLINE is set; unset it, or download while online."
        return f"not in the cache, and {endpoint} does not answer; try again later."
    if isinstance(error, errors.GatedRepoError):
        return (
            f"is gated: accept its conditions at {endpoint}/{shown(repo)}, then `hf auth login` "
            "with a token of the same account."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "this repository does not have such a branch, tag or commit."
    if isinstance(error, errors.EntryNotFoundError):
        return f"this repository does not have such a file ({_said(error)})."
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(wanted)
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error, repo, endpoint, wanted)
    if isinstance(error, errors.HFValidationError):
        return f"huggingface_hub does not accept this name ({_said(error)})."
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "this needs a token: run `hf auth login`."
    if is_foreign(error):
        return (
            f"{endpoint} does not answer as the Hub does ({shown(type(error).__name__)}); the network may want you to "
            f"sign in first, or HF_ENDPOINT may be wrong."
        )
    if is_away(error):
        return f"cannot reach {endpoint} ({_said(error) or type(error).__name__}); try again later."
    if type(error).__module__.startswith("huggingface_hub"):
        return _said(error) + "."
    return _said(error) + "." if isinstance(error, OSError | ValueError) and _of_client(error) else None


def _by_status(error: Any, repo: str, endpoint: str, wanted: str) -> str:
    status = _status(error)
    said = _said(error)
    if status == 401 and _has_token():
        return (
            f"the Hub does not accept the token; make another at {endpoint}/settings/tokens, "
            "then `hf auth login` (or set HF_TOKEN)."
        )
    if status == 403:
        right = "write to" if wanted == "write" else "read"
        return (
            f"this token may not {right} {shown(repo)} ({said}); "
            f"make one with that permission at {endpoint}/settings/tokens."
        )
    if status in (401, 404):
        return _not_found(wanted)
    if status in (409, 412):
        return f"the repository changed meanwhile ({said}); look at its new commits, then push again."
    if status == 429:
        return "too many requests, also after waiting; run the same command later to continue from here."
    if status is not None and status >= 500:
        return f"the server failed with {status} ({said}); run the same command later to continue from here."
    return f"the Hub refused the request with {status} ({said})."


def _not_found(wanted: str) -> str:
    if wanted == "write" and not _has_token():
        return "this needs a token that may write there: run `hf auth login`, or set HF_TOKEN."
    first = "no such model repository" if wanted == "read" else "no such repository to write to"
    return f"{first}, or it is private and needs a token that may read it: check the name, or run `hf auth login`."


def _status(error: BaseException) -> int | None:
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _said(error: BaseException) -> str:
    """Return the message of the server, or else the first line of the error, escaped."""
    text = getattr(error, "server_message", None) or next(iter(str(error).strip().splitlines()), "")
    text = re.sub(r" \((Request ID|Amzn Trace ID|Amz CF ID): [^)]*\)", "", " ".join(str(text).split()))
    return shown(text, 200).rstrip(".")


def _of_client(error: BaseException) -> bool:
    """Whether code of huggingface_hub raised the error, which may be a plain ValueError."""
    modules = _modules(error)
    return bool(modules) and modules[-1].startswith("huggingface_hub")


def _modules(error: BaseException) -> list[str]:
    """The modules that an error came through, the one that raised it last."""
    trace, names = error.__traceback__, []
    while trace is not None:
        names.append(str(trace.tb_frame.f_globals.get("__name__", "")))
        trace = trace.tb_next
    return names


def _endpoint() -> str:
    return shown(str(hub().constants.ENDPOINT), 200)


def _has_token() -> bool:
    return bool(os.environ.get("HF_TOKEN")) or hub().get_token() is not None
