"""Sources that lie, through the real command: exit code 1, one clear line, and nothing written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from rekernel.checkpoint.header import build_header

ROOT = Path(__file__).parents[2]
INDEX = "model.safetensors.index.json"


def run(*args, cwd=None):
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}"
    return subprocess.run(
        [sys.executable, "-m", "rekernel_cli", *map(str, args)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, cwd=cwd, timeout=120, check=False,
    )  # fmt: skip


def one_line(result, words=""):
    """A failed run: exit code 1, one printable line on stderr, nothing on stdout."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr[:-1].isprintable() and words in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def files(folder):
    """Every file below, by relative name; folders count by their slash."""
    return {
        p.relative_to(folder).as_posix() + "/" * p.is_dir(): b"" if p.is_dir() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
    }


def framed(text, data=b""):
    return len(text).to_bytes(8, "little") + text.encode() + data


def entry(name="a", dtype="U8", shape="[1]", offsets="[0,1]"):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    return buffer.getvalue()


ONE = save({"a.weight": np.ones((4, 4, 3, 3), np.float32)})
TWO = save({"b.weight": np.ones((4, 4, 3, 3), np.float32)})
CORRUPT = {
    "empty": (b"", "0 bytes"),
    "seven bytes": (ONE[:7], "7 bytes"),
    "half a header": (ONE[:40], "cut short"),
    "half the data": (ONE[:-100], "100 bytes of data are missing"),
    "data behind the end": (ONE + b"x", "the file has 1 byte after the last tensor"),
    "length 2**64 - 1": (b"\xff" * 8 + ONE[8:], "over the limit of"),
    "not JSON": (framed("{"), "not JSON"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "HTML": (b"<!DOCTYPE html><html></html>", "HTML"),
    "a torch zip": (zipped(), "--allow-pickle"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(64), "GGUF"),
    "duplicate keys": (framed("{" + entry() + "," + entry() + "}", b"x"), "key a appears twice"),
    "duplicate keys, one escaped": (framed("{" + entry() + "," + entry(r"\u0061") + "}", b"x"), "key a appears twice"),
    "overlap": (framed("{" + entry() + "," + entry("b") + "}", b"x"), "overlap"),
    "a hole": (framed("{" + entry(offsets="[1,2]") + "}", b"xx"), "no tensor covers bytes"),
    "an unknown dtype": (framed("{" + entry(dtype="F33") + "}", b"x"), "unknown dtype F33"),
    "a hostile dtype": (framed("{" + entry(dtype=r"\u001b[2J\n") + "}", b"x"), "unknown dtype"),
    "a hostile name": (framed("{" + entry(name=r"\u001b[2J\n\u202e", dtype="F32") + "}", b"x"), "takes 4 bytes"),
    "a negative size": (framed("{" + entry(shape="[-1]") + "}", b"x"), "-1"),
    "an overflow": (framed("{" + entry(shape="[4294967296,4294967296]") + "}", b"x"), "overflows"),
    "a NaN": (framed("{" + entry(shape="[NaN]") + "}", b"x"), "NaN"),
    "nested deep": (framed('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deep"),
    "metadata of numbers": (framed('{"__metadata__":{"a":1},' + entry() + "}", b"x"), "not text"),
}


@pytest.mark.parametrize("fault", CORRUPT)
def test_a_corrupt_file_is_refused_by_the_command_with_one_line(fault, tmp_path):
    data, words = CORRUPT[fault]
    (tmp_path / "in.safetensors").write_bytes(data)
    one_line(run("convert", "in.safetensors", "out.safetensors", "--scale", 2, cwd=tmp_path), words)
    assert files(tmp_path) == {"in.safetensors": data}


FOLDERS = {
    "a way up": ({"a.weight": "../../x.safetensors"}, "not a plain file name"),
    "an absolute path": ({"a.weight": "/etc/x.safetensors"}, "not a plain file name"),
    "a drive": ({"a.weight": "C:\\x.safetensors"}, "not a plain file name"),
    "a link out": ({"b.weight": "link.safetensors"}, "leads out of its folder"),
    "a shard missing": ({"c.weight": "three.safetensors"}, "shard three.safetensors is missing"),
    "a key in two shards": ({"a.weight": "copy.safetensors"}, "in two shards"),
    "a shard that is a folder": ({"c.weight": "folder.safetensors"}, ""),
    "a shard cut short": ({"c.weight": "short.safetensors"}, "bytes of data are missing"),
}


@pytest.mark.parametrize("by", ["index", "folder"])
@pytest.mark.parametrize("fault", FOLDERS)
def test_a_lying_index_is_refused_by_the_command_with_one_line(fault, by, tmp_path):
    extra, words = FOLDERS[fault]
    source = tmp_path / "in"
    source.mkdir()
    (tmp_path / "x.safetensors").write_bytes(TWO)
    (source / "one.safetensors").write_bytes(ONE)
    if fault == "a key in two shards":
        (source / "copy.safetensors").write_bytes(ONE)
        extra = {"b.weight": "copy.safetensors"}
    elif fault == "a link out":
        (source / "link.safetensors").symlink_to("../x.safetensors")
    elif fault == "a shard that is a folder":
        (source / "folder.safetensors").mkdir()
    elif fault == "a shard cut short":
        (source / "short.safetensors").write_bytes(TWO[:-9])
    index = {"metadata": {}, "weight_map": {"a.weight": "one.safetensors"} | extra}
    (source / INDEX).write_text(json.dumps(index))
    before = files(tmp_path)
    one_line(run("convert", source / INDEX if by == "index" else source, tmp_path / "out", "--scale", 2), words)
    assert files(tmp_path) == before


def test_a_header_of_a_petabyte_costs_nothing(tmp_path):
    header, _ = build_header([("a.weight", "F32", (2**20, 2**20, 3, 3))])
    (tmp_path / "in.safetensors").write_bytes(header + bytes(100))
    one_line(run("convert", "in.safetensors", "out.safetensors", "--scale", 2, cwd=tmp_path), "missing")
