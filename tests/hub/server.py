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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

import yaml

from .http_handler import Handler
from .repositories import Blob, Commit, Fault, Repo, Seen

OWNER, READER = "hf_owner", "hf_reader"
PART = 64 * 1024  # bytes a part of a multipart upload
LARGE = (".safetensors", ".bin", ".png", ".onnx")
RELATIONS = ("adapter", "merge", "quantized", "finetune")


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
