"""A hub on 127.0.0.1 that speaks the HTTP protocol of the real one as `huggingface_hub` uses it.

Two servers, as in reality: the hub, and a store for large files on another origin, which hands out and takes signed
addresses and must never see a token. Answers, headers and status codes are those the client's source and its issue
tracker show: 412 for a parent commit that is not the head, X-Error-Code for what is missing or gated, 401 for what an
anonymous caller may not know of, 302 to the store with X-Linked-Etag and X-Linked-Size.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

OWNER, READER = "hf_owner", "hf_reader"
PART = 64 * 1024  # bytes a part of a multipart upload
LARGE = (".safetensors", ".bin", ".png", ".onnx")
RELATIONS = ("adapter", "merge", "quantized", "finetune")


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
    """What to do instead of answering, so many times: a status, or the connection cut after a share of the body."""

    method: str
    pattern: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: float = 0.0
    times: int = 1
    after: int = 0  # requests to let pass first
    error: str = "out of order"


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    origin: str
    nbytes: int = 0
    sent: int = 0


class LoopbackHub:
    """The state of both servers, and what was asked of them."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.parents: list[str | None] = []
        self.lock = threading.Lock()
        self._servers = [self._serve("hub", Hub), self._serve("store", Store)]

    def _serve(self, origin: str, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(origin, (handler,), {"hub": self, "origin": origin}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def store_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def reset(self) -> None:
        self.faults.clear()
        self.seen.clear()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        repo = self.repos[name] = Repo(name, private, gated)
        repo.commit({path: self.blob(path, data) for path, data in files.items()}, "initial commit")
        return repo

    def blob(self, path: str, data: bytes) -> Blob:
        blob = Blob(data, path.endswith(LARGE))
        if blob.large:
            self.store[blob.sha256] = data
        return blob

    def asked(self, method: str, pattern: str) -> list[Seen]:
        """Requests of one kind so far."""
        return [seen for seen in self.seen if seen.method == method and re.search(pattern, seen.path)]


class Handler(BaseHTTPRequestHandler):
    """What both servers share: reading bodies, answering, failing on purpose."""

    hub: LoopbackHub
    origin: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def handle_all(self) -> None:
        parts = urlsplit(self.path)
        self.place, self.query = unquote(parts.path), parse_qs(parts.query)
        self.raw_place = parts.path
        self.entry = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self.origin)
        with self.hub.lock:
            self.hub.seen.append(self.entry)
            fault = next((f for f in self.hub.faults if f.times and self._hit(f)), None)
            if fault and fault.after:
                fault.after -= 1
                fault = None
            elif fault:
                fault.times -= 1
        body = self._body(fault.cut if fault and self.command in ("PUT", "POST") else 0.0)
        if body is None:
            self.close_connection = True
            self.connection.close()
            return
        self.entry.nbytes = len(body)
        if fault and fault.status:
            self.reply(fault.status, {"error": fault.error}, fault.headers)
            return
        self.cut = fault.cut if fault else 0.0
        with self.hub.lock:
            self.answer(body)

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self.handle_all
        raise AttributeError(name)

    def _hit(self, fault: Fault) -> bool:
        return fault.method == self.command and re.search(fault.pattern, self.path) is not None

    def _body(self, cut: float) -> bytes | None:
        """The body; None where it was cut off."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
                if cut:
                    return None
            self.rfile.readline()
            return data
        length = int(self.headers.get("Content-Length") or 0)
        if cut:
            self.rfile.read(int(length * cut))
            return None
        return self.rfile.read(length)

    def reply(self, status: int, body: object = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if not isinstance(body, bytes) else {}
        sent |= headers or {}
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        if "Content-Length" not in sent:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut:
            data = data[: int(len(data) * self.cut)]
            self.close_connection = True
        self.entry.sent = len(data)
        self.wfile.write(data)

    cut = 0.0

    def reply_data(self, data: bytes, headers: dict[str, str]) -> None:
        """A file or the range of it that was asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.reply(200, data, headers | {"Accept-Ranges": "bytes", "Content-Length": str(len(data))})
            return
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if start >= len(data):
            self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        piece = data[start : stop + 1]
        self.reply(206, piece, headers | {
            "Content-Range": f"bytes {start}-{stop}/{len(data)}", "Content-Length": str(len(piece))
        })  # fmt: skip

    def answer(self, body: bytes) -> None:
        raise NotImplementedError


class Store(Handler):
    """Large files behind signed addresses."""

    def answer(self, body: bytes) -> None:
        if "authorization" in self.entry.headers:
            self.reply(400, {"error": "a token reached the store"})
            return
        _, kind, oid, *rest = self.place.split("/")
        if kind == "get":
            self.reply_data(self.hub.store[oid], {"ETag": f'"{oid}"'})
        elif kind == "put":
            self.hub.store[oid] = body
            self.reply(200)
        else:
            self.hub.parts.setdefault(oid, {})[int(rest[0])] = body
            self.reply(200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})


class Hub(Handler):
    """The hub itself."""

    def answer(self, body: bytes) -> None:
        routes = (
            (r"/api/whoami-v2", self.whoami),
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", self.validate),
            (r"/api/complete/(?P<oid>\w+)", self.complete),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>tree|preupload|commit|paths-info|revision)"
             r"/(?P<revision>[^/]+)(/(?P<path>.+))?", self.of_repo),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)", self.info),
            (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.resolve),
        )  # fmt: skip
        for pattern, method in routes:
            if found := re.fullmatch(pattern, self.raw_place):
                method(body, **{k: unquote(v) for k, v in found.groupdict().items() if v is not None})
                return
        self.reply(404, {"error": "Not Found"})

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def visible(self, name: str, *, write: bool = False) -> Repo | None:
        """The repository, or None after the refusal."""
        repo = self.hub.repos.get(name)
        if self.token and self.token not in (OWNER, READER):
            self.refuse(401, "Invalid credentials in Authorization header")
        elif not self.token and (write or repo is None or repo.private):
            self.refuse(401, "Invalid username or password.")
        elif repo is None or (repo.private and self.token != OWNER):
            self.refuse(404, "Repository not found", "RepoNotFound")
        elif write and self.token != OWNER:
            self.refuse(403, "You don't have the required permissions to perform this action")
        else:
            return repo
        return None

    def refuse(self, status: int, message: str, code: str = "", **headers: str) -> None:
        headers = {"X-Error-Message": message, **headers} | ({"X-Error-Code": code} if code else {})
        self.reply(status, {"error": message}, headers)

    def whoami(self, _: bytes) -> None:
        names = {OWNER: "me", READER: "reader"}
        if self.token in names:
            self.reply(200, {"name": names[self.token], "type": "user", "orgs": []})
        else:
            self.refuse(401, "Invalid credentials in Authorization header")

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if self.token not in (OWNER, READER):
            self.refuse(401, "Invalid username or password.")
        elif self.token == READER or not name.startswith("me/"):
            owner = name.partition("/")[0]
            self.refuse(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        elif name in self.hub.repos:
            url = f"{self.hub.endpoint}/{name}"
            self.reply(409, {"error": "You already created this model repo", "url": url})
        else:
            private = asked.get("visibility") == "private"
            self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
            self.reply(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def validate(self, body: bytes) -> None:
        found = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
        errors = [] if found else ["no metadata"]
        if data.get("base_model_relation", "merge") not in RELATIONS:
            errors.append('"base_model_relation" must be one of ' + ", ".join(RELATIONS))
        if not re.fullmatch(r"[a-z0-9.-]+", data.get("license", "other")):
            errors.append('"license" must be a string of the list')
        document = {"warnings": [], "errors": [{"message": text} for text in errors]}
        self.reply(400 if errors else 200, document)

    def info(self, _: bytes, repo: str) -> None:
        if found := self.visible(repo):
            self.reply(200, self.document(found, found.head))

    def document(self, repo: Repo, commit: Commit) -> dict[str, object]:
        card = commit.files.get("README.md")
        front = re.match(rb"---\n(.*?)\n---", card.data, re.DOTALL) if card else None
        data = yaml.safe_load(front[1]) if front else None
        return {
            "id": repo.name, "sha": commit.sha, "private": repo.private, "gated": "auto" if repo.gated else False,
            "cardData": data, "tags": (data or {}).get("tags", []), "pipeline_tag": (data or {}).get("pipeline_tag"),
            "siblings": [{"rfilename": path} for path in commit.files],
        }  # fmt: skip

    def of_repo(self, body: bytes, repo: str, what: str, revision: str, path: str = "") -> None:
        writes = what in ("preupload", "commit") and "create_pr" not in self.query
        found = self.visible(repo, write=writes)
        if found is None:
            return
        commit = found.at(revision)
        if commit is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        elif what == "revision":
            self.reply(200, self.document(found, commit))
        elif what == "tree":
            files = {name: blob for name, blob in commit.files.items() if name.startswith(f"{path}/" if path else "")}
            self.reply(200, [self.listed(name, blob) for name, blob in files.items()])
        elif what == "paths-info":
            names = parse_qs(body.decode())["paths"]
            self.reply(200, [self.listed(name, commit.files[name]) for name in names if name in commit.files])
        elif what == "preupload":
            self.reply(200, {"files": [self.mode(file, commit) for file in json.loads(body)["files"]]})
        else:
            self.commit(found, revision, commit, body)

    @staticmethod
    def listed(name: str, blob: Blob) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(blob.data), "oid": blob.git}
        if blob.large:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}
        return entry

    @staticmethod
    def mode(file: dict[str, object], commit: Commit) -> dict[str, object]:
        name = str(file["path"])
        there = commit.files.get(name)
        oid = (there.sha256 if there.large else there.git) if there else None
        kind = "lfs" if name.endswith(LARGE) else "regular"
        return {"path": name, "uploadMode": kind, "shouldIgnore": False, "oid": oid}

    def batch(self, body: bytes, repo: str) -> None:
        asked_for = json.loads(body)
        if self.visible(repo, write="ref" in asked_for) is None:  # without one it is for a pull request, open to all
            return
        objects = []
        for asked in asked_for["objects"]:
            oid, size = asked["oid"], asked["size"]
            entry = {"oid": oid, "size": size}
            if oid not in self.hub.store:
                if size <= PART:
                    upload = {"href": f"{self.hub.store_url}/put/{oid}", "header": {}}
                else:
                    count = -(-size // PART)
                    header = {str(i): f"{self.hub.store_url}/part/{oid}/{i}" for i in range(1, count + 1)}
                    upload = {
                        "href": f"{self.hub.endpoint}/api/complete/{oid}", "header": header | {"chunk_size": str(PART)}
                    }  # fmt: skip
                entry["actions"] = {"upload": upload}
            objects.append(entry)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def complete(self, body: bytes, oid: str) -> None:
        parts = self.hub.parts.get(oid, {})
        wanted = [part["partNumber"] for part in json.loads(body)["parts"]]
        data = b"".join(parts[number] for number in wanted)
        if hashlib.sha256(data).hexdigest() != oid:
            self.refuse(400, "the parts do not make the file")
            return
        self.hub.store[oid] = data
        self.reply(200, {"ok": True})

    def commit(self, repo: Repo, revision: str, at: Commit, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = lines[0]["value"]
        parent = header.get("parentCommit")
        self.hub.parents.append(parent)
        pull = "create_pr" in self.query
        if parent and parent != at.sha and not (pull and repo.at(parent)):
            self.refuse(412, "A commit has happened since. Please refresh and try again.")
            return
        files = dict((repo.at(parent) or at).files if parent else at.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.store:
                    self.refuse(400, f"LFS pointer of {value['path']} points to a file that does not exist")
                    return
                files[value["path"]] = Blob(self.hub.store[value["oid"]], True)
            else:
                self.refuse(400, f"unknown operation {line['key']}")
                return
        number = sum(name.startswith("refs/pr/") for name in repo.branches) + 1
        branch = f"refs/pr/{number}" if pull else revision
        made = repo.commit(files, header["summary"], branch, header["description"])
        url = f"{self.hub.endpoint}/{repo.name}"
        self.reply(200, {
            "success": True, "commitOid": made.sha, "commitUrl": f"{url}/commit/{made.sha}", "hookOutput": "",
            "pullRequestUrl": f"{url}/discussions/{number}" if pull else None,
        })  # fmt: skip

    def resolve(self, _: bytes, repo: str, revision: str, path: str) -> None:
        found = self.visible(repo)
        if found is None:
            return
        commit = found.at(revision)
        if commit is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        elif found.gated and self.token != OWNER:
            said = f"Access to model {repo} is restricted and you are not in the authorized list."
            self.refuse(403 if self.token else 401, said, "GatedRepo")
        elif path not in commit.files:
            self.refuse(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
        else:
            blob = commit.files[path]
            headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.git}"'}
            if not blob.large:
                self.reply_data(blob.data, headers)
                return
            linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
            self.reply(302, b"", headers | linked | {"Location": f"{self.hub.store_url}/get/{blob.sha256}"})
