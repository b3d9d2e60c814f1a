"""What the loopback Hub holds and what it has seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass
class Blob:
    data: bytes
    large: bool

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, Blob]
    description: str = ""


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)

    def commit(self, files: dict[str, Blob], message: str, branch: str = "main", description: str = "") -> Commit:
        sha = hashlib.sha1(f"{self.name}{len(self.commits)}{message}".encode()).hexdigest()
        self.commits.append(Commit(sha, message, files, description))
        self.branches[branch] = self.commits[-1]
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        return self.branches.get(revision) or next((c for c in self.commits if c.sha == revision), None)

    @property
    def head(self) -> Commit:
        return self.branches["main"]


@dataclass
class Fault:
    """What to do instead of answering, so many times: a status, or the connection cut after a share of the body.

    A status comes with an error, or with a body of another kind.
    """

    method: str
    pattern: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: float = 0.0
    times: int = 1
    after: int = 0  # requests to let pass first
    error: str = "out of order"
    body: bytes | None = None  # instead of the error


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    origin: str
    nbytes: int = 0
    sent: int = 0
