"""Read the licence and the task of the original model from its card, and explain what they mean for publishing.

Scope: the front matter of a card. Anyone may have written it, so every value is checked before use. Not here: the text
of the new card (see `hub.card`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..escape import shown

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_NAME = re.compile(r"[\w .,()+-]{1,80}")
_PIPELINE = re.compile(r"[a-z0-9][a-z0-9-]{1,60}")
_TAG = re.compile(r"[\w .+-]{1,40}")
_NO_DERIVATIVES = re.compile(r"(^|[\W_])nd([\W_]|$)|no[\W_]?deriv", re.IGNORECASE)
_TAGS = 20


@dataclass(frozen=True)
class Terms:
    """Licence and task of the source, from its card. A value that is missing or malformed is empty.

    license : identifier of the licence on the Hub
    name, link : name and address of the licence, if `license` is 'other'
    pipeline_tag, tags : task of the model
    """

    license: str = ""
    name: str = ""
    link: str = ""
    pipeline_tag: str = ""
    tags: tuple[str, ...] = ()

    @property
    def forbids(self) -> bool:
        """Whether the licence forbids publishing a changed version.

        Examples
        --------
        >>> Terms("cc-by-nc-nd-4.0").forbids, Terms("cc-by-sa-4.0").forbids, Terms("other", "Foo NoDerivs 1.0").forbids
        (True, False, True)
        """
        return any(_NO_DERIVATIVES.search(text) for text in (self.license, self.name))

    @property
    def note(self) -> str:
        """Warning before publishing; empty if there is none."""
        called = self.name or self.license
        if self.forbids:
            return f"the source's licence, {shown(called)}, forbids publishing changed versions."
        if self.license in ("", "unknown"):
            return "the source's licence is unknown: a changed version may not be allowed."
        if self.license == "other":
            which = f", {shown(called)} ({shown(self.link)})" if self.name or self.link else ""
            return f"the source's licence is not in the Hub's list{which}: check that it allows a changed version."
        return ""


def terms_of(front: Mapping[str, Any]) -> Terms:
    """Read the terms from the front matter of a card.

    Examples
    --------
    >>> terms_of({"license": "mit", "tags": ["vision", "<script>"], "pipeline_tag": "image-classification"})
    Terms(license='mit', name='', link='', pipeline_tag='image-classification', tags=('vision',))
    """
    licenses = front.get("license")
    licenses = licenses if isinstance(licenses, list) else [licenses]
    known = [text.lower() for text in licenses if isinstance(text, str) and _LICENSE.fullmatch(text.lower())]
    tags = front.get("tags")
    return Terms(
        # If there are several licences, one that forbids changes counts.
        next((text for text in known if _NO_DERIVATIVES.search(text)), known[0] if known else ""),
        _checked(front.get("license_name"), _NAME),
        _link(front.get("license_link")),
        _checked(front.get("pipeline_tag"), _PIPELINE),
        tuple(t for t in tags if isinstance(t, str) and _TAG.fullmatch(t))[:_TAGS] if isinstance(tags, list) else (),
    )


def _checked(value: object, pattern: re.Pattern[str]) -> str:
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""


def _link(value: object) -> str:
    """Return an address or a plain file name of the source repository; empty for anything else."""
    text = value if isinstance(value, str) else ""
    return text if re.fullmatch(r"https?://[\w./%#?=&~+:-]{1,300}|[\w.-]{1,80}", text, re.ASCII) else ""
