"""Stores to convert from and to: fsspec's own in memory, and moto's S3 server on a loopback port."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DUMMY = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


@dataclass
class Seen:
    method: str
    path: str
    query: str
    range: str
    sent: int = 0


@dataclass
class Fault:
    """What to do instead of answering requests that match: a status, or a body that is cut after some bytes."""

    method: str
    pattern: str
    status: int = 0
    cut: int = 0
    after: int = 0  # requests to let pass first


@dataclass
class Store:
    """A bucket of a store, empty at the start of each test.

    seen, faults : requests that the server got, and what it does wrong; for S3 alone
    """

    fs: Any
    protocol: str
    bucket: str = "bucket"
    environment: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def url(self, name: str = "") -> str:
        return f"{self.protocol}://{self.bucket}" + (f"/{name}" if name else "")

    def path(self, name: str = "") -> str:
        return f"{self.bucket}/{name}".rstrip("/")

    def put(self, name: str, data: bytes) -> str:
        self.fs.pipe_file(self.path(name), data)
        return self.url(name)

    def upload(self, folder: Path, name: str) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return self.url(name)

    def names(self, folder: str = "") -> list[str]:
        self.fs.invalidate_cache()
        base = self.path(folder).strip("/")
        return sorted(name.strip("/")[len(base) :].strip("/") for name in self.fs.find(self.path(folder)))

    def contents(self, folder: str = "") -> dict[str, bytes]:
        start = f"{folder}/" if folder else ""
        return {name: self.get(start + name) for name in self.names(folder)}

    def get(self, name: str) -> bytes:
        return bytes(self.fs.cat_file(self.path(name)))

    def version(self, name: str) -> str:
        """What tells an object from one that was written later with the same bytes."""
        self.fs.invalidate_cache()
        info = self.fs.info(self.path(name))
        return f"{info.get('LastModified') or info['created']}"

    def uploads(self) -> list[str]:
        return [found["Key"] for found in self.fs.list_multipart_uploads(self.bucket)] if self.protocol == "s3" else []


@pytest.fixture
def memory() -> Iterator[Store]:
    """fsspec's own store, in the memory of this process."""
    fs = pytest.importorskip("fsspec").filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield Store(fs, "memory")
    fs.store.clear()


@dataclass
class Server:
    url: str
    seen: list[Seen]
    faults: list[Fault]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """moto's server, with a record of its requests and with faults."""
    pytest.importorskip("moto")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)
    seen: list[Seen] = []
    faults: list[Fault] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        request = Seen(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], environ.get("HTTP_RANGE", "")
        )
        seen.append(request)
        cut = None
        for fault in faults:
            if fault.method == request.method and re.search(fault.pattern, f"{request.path}?{request.query}"):
                fault.after -= 1
                if fault.after >= 0:
                    continue
                if fault.status:
                    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                    kind = "AccessDenied" if fault.status == 403 else "InternalError"
                    body = f"<Error><Code>{kind}</Code><Message>out of order</Message></Error>".encode()
                    start_response(f"{fault.status} x", [("Content-Length", str(len(body)))])
                    return [body]
                cut = fault.cut
        answer = b"".join(moto(environ, start_response))
        request.sent = len(answer)
        return [answer if cut is None else answer[:cut]]

    served = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{served.server_port}", seen, faults)
    served.shutdown()
    thread.join()


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    s3fs = pytest.importorskip("s3fs")
    environment = {**DUMMY, "AWS_ENDPOINT_URL": server.url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("bucket")
    server.seen.clear()
    yield Store(fs, "s3", environment=environment, seen=server.seen, faults=server.faults)
    server.faults.clear()
    fs.invalidate_cache()
    for upload in fs.list_multipart_uploads("bucket"):
        fs.abort_mpu("bucket", upload["Key"], upload["UploadId"])
    if names := fs.find("bucket"):
        for name in names:
            fs.rm_file(name)
    fs.rmdir("bucket")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found
