"""What addresses are refused for, before anything is read or written, in one line that names the address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

import rekernel as rk
from rekernel.checkpoint.atomic_file import PARTIAL
from rekernel.checkpoint.locked_file import LOCK, hidden_beside
from rekernel.conversion.aside import NEW, OLD
from rekernel.sources.store_address import StoreAddress, store_address
from rekernel.sources.store_file import store_file

from .conftest import DUMMY, Store
from .models import contents, converted, file, pipeline, sharded

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

ROOT = Path(__file__).parents[2]


def refused(source: object, target: object, **options: object) -> str:
    with pytest.raises(rk.RekernelError) as caught:
        rk.convert(source, target, **{"scale": 2, **options})
    message = str(caught.value)
    assert "\n" not in message and "stand-in" not in message and "rekernel-" not in message
    return message


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("foo://bucket/in.safetensors", "foo://bucket/in.safetensors: fsspec does not know the protocol foo://"),
        ("simplecache::s3://bucket/x", "simplecache::s3://bucket/x: is a chain of addresses"),
        ("memory://bucket/../in.safetensors", "memory://bucket/../in.safetensors: has a zero byte, or a part . or .."),
        ("memory://bucket/a\0.safetensors", "memory://bucket/a\\x00.safetensors: has a zero byte"),
        ("https://host/in.safetensors", "https://host/in.safetensors: is a web address"),
    ],
)
def test_addresses_that_lead_nowhere(address, said):
    assert said in refused(address, "out.safetensors")


def test_targets_that_lead_nowhere(memory: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    assert "has a zero byte, or a part . or .." in refused(source, "memory://bucket/../x.safetensors")
    memory.put("taken.txt", b"x")
    assert memory.url("taken.txt/x.safetensors: the store failed") in refused(
        source, memory.url("taken.txt/x.safetensors")
    )
    name = "x" * 300 + ".safetensors"
    assert "File name too long" in refused(source, memory.url(name))
    assert memory.names() == ["taken.txt"]
    memory.put(name, source.read_bytes())
    said = refused(memory.url(name), tmp_path / "out.safetensors")
    assert said.startswith(memory.url("xxx")) and "File name too long" in said


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("https://host/out", "https://host/out: results are written to this disk or to a store"),
        ("HTTP://host/out.safetensors", "results are written to this disk or to a store"),
        ("hf://me/out", "hf://me/out: results are written"),
        ("s3:bucket/out", "s3:bucket/out: an address begins with s3://; for a file of this name write ./ before it"),
    ],
)
def test_targets_that_would_be_folders_with_odd_names(tmp_path, monkeypatch, target, said):
    source = file(tmp_path / "in.safetensors")
    monkeypatch.chdir(tmp_path)
    assert said in refused(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


def test_an_endpoint_that_no_request_can_have_is_not_tried_again(monkeypatch):
    pytest.importorskip("s3fs")
    for name, value in {**DUMMY, "AWS_ENDPOINT_URL": "127.0.0.1:5577"}.items():
        monkeypatch.setenv(name, value)
    said = refused("s3://bucket/in.safetensors", "out.safetensors")
    assert "Invalid endpoint" in said and "check the address, and the endpoint in AWS_ENDPOINT_URL" in said


def test_what_a_killed_conversion_left_is_not_copied(memory: Store, tmp_path):
    folder = sharded(tmp_path / "in")
    expected = contents(converted(folder, tmp_path / "expected"))
    for name in (".a.safetensors.rekernel-partial", ".rekernel-journal.json", ".rekernel-lock"):
        (folder / name).write_bytes(b"left")
    for suffix in (LOCK, PARTIAL, NEW, OLD):  # beside a result that was to lie in this folder
        hidden_beside(folder / "b.safetensors", suffix).write_bytes(b"left")
    assert contents(converted(folder, tmp_path / "out")) == expected
    rk.convert(memory.upload(folder, "in"), tmp_path / "other", scale=2)
    assert contents(tmp_path / "other") == expected


class Dated(MemoryFileSystem):
    """A store that answers from the listing of the folder, and calls the time of a change as FTP servers do."""

    protocol = "dated"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def invalidate_cache(self, path=None):
        if path is None:
            self.dircache.clear()
        else:
            self.dircache.pop(path, None)

    def info(self, path, **options):
        folder = self._parent(path)
        if folder not in self.dircache:
            self.dircache[folder] = [self._dated(entry) for entry in super().ls(folder, detail=True)]
        return next((dict(entry) for entry in self.dircache[folder] if entry["name"] == path), None) or self._none(path)

    @staticmethod
    def _dated(entry):
        entry = dict(entry)
        entry["modify"] = str(entry.pop("created", ""))
        return entry

    @staticmethod
    def _none(path):
        raise FileNotFoundError(path)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("dated://", "memory://"))


def test_a_change_is_noticed_where_a_store_answers_from_a_listing(tmp_path):
    fsspec.register_implementation("dated", Dated, clobber=True)
    store, data = Dated(), file(tmp_path / "in.safetensors").read_bytes()
    store.pipe_file("/m/in.safetensors", data)
    found = store_file(store_address("dated://m/in.safetensors"))
    found.check_unchanged()
    store.pipe_file("/m/in.safetensors", bytes(len(data)))
    with pytest.raises(rk.RekernelError, match="the object changed while it was read"):
        found.check_unchanged()


def test_the_case_of_a_protocol_and_a_path_object_do_not_matter(memory: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    memory.put("in.safetensors", source.read_bytes())
    for address in (
        "MEMORY://bucket/in.safetensors",
        "memory:/bucket/in.safetensors",
        Path(memory.url("in.safetensors")),
    ):
        assert rk.inspect(address).path == "memory://bucket/in.safetensors"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ftp://me:secret@host/x", "ftp://me@host/x"),
        ("ftp://me:s/e@c:ret@host/x", "ftp://me@host/x"),
        ("sftp://host:22/dir@x", "sftp://host:22/dir@x"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
    ],
)
def test_a_password_is_never_shown(address, shown):
    read = store_address(address)
    assert (str(read), repr(read)) == (shown, f"StoreAddress({shown!r})")
    assert str(read / "y") == f"{shown}/y"
    assert "secret" not in str(StoreAddress("ftp://me:secret@host").parent)


def test_a_password_is_not_in_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused("ftp://me:top-secret@127.0.0.1:1/in.safetensors", "out.safetensors")
    assert said.startswith("ftp://me@127.0.0.1:1/in.safetensors: the store cannot be reached")
    assert "top-secret" not in said
    said = refused(file(tmp_path / "in.safetensors"), "ftp://me:top-secret@127.0.0.1:1/out.safetensors")
    assert said.startswith("ftp://me@127.0.0.1:1/out.safetensors: ") and "top-secret" not in said
    said = refused("simplecache::ftp://me:top-secret@host/x", "out.safetensors")
    assert "top-secret" not in said


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    said = refused("memory://bucket/in.safetensors", "out.safetensors")
    assert said == "memory://bucket/in.safetensors: an address in a store needs packages: pip install fsspec"
    assert refused("s3://bucket/in.safetensors", "out.safetensors").endswith("pip install fsspec s3fs")


def test_the_package_of_a_store_that_is_missing_is_named(monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert "s3:// needs a package that is not installed: pip install fsspec s3fs" in refused(
        "s3://bucket/in.safetensors", "out.safetensors"
    )


@pytest.mark.parametrize("name", ["in.ckpt", "folder/pytorch_model.bin", "in.onnx", "folder/net.onnx"])
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_pickles_and_onnx_models_are_copied_first(memory: Store, tmp_path, name, allow_pickle):
    memory.put(name, b"\x80\x02x")
    said = refused(memory.url(name.partition("/")[0]), tmp_path / "out", allow_pickle=allow_pickle)
    assert memory.url(name) in said and "copy it here first" in said
    with pytest.raises(rk.RekernelError, match="copy it here first"):
        rk.inspect(memory.url(name), allow_pickle=allow_pickle)


def test_an_onnx_model_goes_to_a_disk(memory: Store, tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "in.onnx")
    assert "is written to a disk" in refused(tmp_path / "in.onnx", memory.url("out.onnx"))


def test_the_target_is_not_the_source(memory: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    memory.put("dir/in.safetensors", source.read_bytes())
    for target in ("dir/in.safetensors", "dir/", "dir"):
        said = refused(memory.url("dir/in.safetensors"), memory.url(target), force=True)
        assert said == f"{memory.url('dir/in.safetensors')}: is also an input file; give the result another name."
    memory.upload(pipeline(tmp_path / "pipe"), "pipe")
    assert "is the folder of the source" in refused(memory.url("pipe"), memory.url("pipe/"), force=True)
    assert "lies inside the source" in refused(memory.url("pipe"), memory.url("pipe/unet/x"), force=True)
    assert "holds the source" in refused(memory.url("pipe"), memory.url(), force=True)
    assert memory.get("dir/in.safetensors") == source.read_bytes()


def test_names_of_targets(memory: Store, tmp_path):
    source, folder = file(tmp_path / "in.safetensors"), sharded(tmp_path / "sharded")
    said = refused(source, memory.url("out.bin"))
    assert said == (
        f"{memory.url('out.bin')}: the name of a converted file ends in .safetensors; pass another name, or a folder"
    )
    memory.put("taken", b"x")
    assert refused(folder, memory.url("taken")) == (
        f"{memory.url('taken')}: the result is a folder; pass the name of a folder"
    )
    memory.put("full/other.txt", b"x")
    said = refused(folder, memory.url("full"))
    assert said.startswith(f"{memory.url('full')}: exists already and is not empty (other.txt); pass a new folder")
    rk.convert(folder, memory.url("full"), scale=2, force=True)
    assert memory.get("full/other.txt") == b"x"
    said = refused(folder, memory.url("full"), max_shard_size=100_000, resume=True)
    assert "belongs to another conversion" in said and memory.url("full/model") in said


def test_force_removes_the_shards_of_an_earlier_result(memory: Store, tmp_path):
    folder = sharded(tmp_path / "in")
    rk.convert(folder, memory.url("out"), scale=2, max_shard_size=100_000)
    before = set(memory.names("out"))
    rk.convert(folder, memory.url("out"), scale=2, force=True)
    after = set(memory.names("out"))
    assert after == {path.name for path in folder.iterdir()}
    assert before - after


def test_hostile_objects(memory: Store, tmp_path):
    cases = {
        "long": ((99_000_000).to_bytes(8, "little") + b"{}", "a header of 99000000 bytes in a file of 10 bytes"),
        "longer": ((1 << 62).to_bytes(8, "little") + b"{}", "header length of 4611686018427387904, over the limit"),
        "short": (b"abc", "the file has 3 bytes"),
        "empty": (b"", "the file has 0 bytes"),
        "page": (b"<html>" + bytes(600), "an HTML page"),
    }
    for name, (data, said) in cases.items():
        address = memory.put(f"{name}.safetensors", data)
        message = refused(address, tmp_path / "out.safetensors")
        assert address in message and said in message
    for name in ("../in.safetensors", "/etc/passwd", "a/b.safetensors"):
        index = f'{{"weight_map": {{"w": "{name}"}}}}'.encode()
        address = memory.put("evil/model.safetensors.index.json", index)
        assert "is not a plain file name" in refused(address, tmp_path / "out")
        assert "is not a plain file name" in refused(memory.url("evil"), tmp_path / "out")
    index = b'{"weight_map": {"w": "gone.safetensors"}}'
    address = memory.put("lacking/model.safetensors.index.json", index)
    assert f"{address}: shard gone.safetensors is missing" in refused(address, tmp_path / "out")
    memory.fs.store["/bucket/up/../x.safetensors"] = memory.fs.store["/bucket/long.safetensors"]
    assert "has a name that no file on this disk can have" in refused(memory.url("up"), tmp_path / "out")


def test_escapes_in_the_names_of_objects_are_not_printed(memory: Store, tmp_path):
    said = refused(memory.put("a\x1b[2Jb.safetensors", b"x"), tmp_path / "out.safetensors")
    assert "\x1b" not in said and "a\\x1b[2Jb.safetensors" in said


def test_a_folder_of_very_many_objects_is_not_read(memory: Store, tmp_path, monkeypatch):
    from rekernel.sources import store_place

    monkeypatch.setattr(store_place, "MOST_FILES", 5)
    for number in range(6):
        memory.put(f"many/{number}", b"")
    assert "holds more than 5 objects; pass the folder of one model" in refused(memory.url("many"), tmp_path / "out")
    assert "holds more than 5 objects" in refused(sharded(tmp_path / "in"), memory.url("many"), force=True)


@pytest.mark.slow
def test_buckets_and_keys_that_are_missing(s3: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    assert "s3://bucket/in.safetensors: no such object" in refused(
        s3.url("in.safetensors"), tmp_path / "out.safetensors"
    )
    said = refused("s3://no-such-bucket/in.safetensors", tmp_path / "out.safetensors")
    assert said.startswith("s3://no-such-bucket/in.safetensors: no such object")
    said = refused(source, "s3://no-such-bucket/out.safetensors")
    assert said == "s3://no-such-bucket: no such bucket; make it first, or check the name."
    assert "names no bucket or host" in refused(source, "s3://")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_a_store_that_is_not_there_is_one_line(tmp_path, command):
    environment = {**os.environ, **DUMMY, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}:{ROOT / 'cli'}"
    scale = [] if command == "inspect" else ["--scale", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "rekernel", command, "s3://bucket/in.safetensors", *scale],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "s3://bucket/in.safetensors: the store cannot be reached" in result.stderr
