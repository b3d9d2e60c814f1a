"""Every way a header can lie, through the reader itself; tests/hostile/README.md lists them in words."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rekernel.checkpoint.header import parse_header
from rekernel.checkpoint.open_local import open_checkpoint
from rekernel.checkpoint.shard import shard_of_file
from rekernel.errors import CheckpointError


def framed(text, data=b""):
    text = text if isinstance(text, bytes) else text.encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype='"U8"', shape="[1]", offsets="[0,1]", name='"a"'):
    return f'{name}:{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def one(**parts):
    return framed("{" + entry(**parts) + "}", b"x")


def two(first, second, data=8):
    entries = [
        entry(name=name, shape=f"[{end - start}]", offsets=f"[{start},{end}]")
        for name, (start, end) in {'"a"': first, '"b"': second}.items()
    ]
    return framed("{" + ",".join(entries) + "}", bytes(data))


def zipped(name="archive/data.pkl"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


BIG = "1" * 5000
FAULTS = {
    # the first eight bytes
    "empty file": (b"", "0 bytes, fewer than the 8"),
    "seven bytes": (b"\1\0\0\0\0\0\0", "7 bytes, fewer than the 8"),
    "length 0": (bytes(8), "header length 0"),
    "length 0, data behind": (bytes(64), "header length 0"),
    "length over 100 MB": ((100_000_001).to_bytes(8, "little") + b"{}", "over the limit of 100000000"),
    "length of 2**64 - 1": (b"\xff" * 8 + b"{}", "over the limit of"),
    "length beyond the end": ((100).to_bytes(8, "little") + b"{}", "a file of 10 bytes, cut short"),
    # another kind of file
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "zip": (zipped(), "torch pickle, not safetensors; .* allow_pickle=True"),
    "NumPy's zip": (zipped("a.npy"), r"a NumPy archive \(.npz\), not safetensors"),
    "bare pickle": (pickle.dumps({"a": list(range(9))}, 2), "torch pickle.* allow_pickle=True"),
    "HTML": (b"<!DOCTYPE html><html><body>Log in</body></html>", "HTML page saved as weights"),
    "HTML behind blanks": (b"\xef\xbb\xbf\n <HTML><head></head></html>", "HTML page saved as weights"),
    "XML": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "XML page"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(64), "GGUF"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "JSON without its length": (b'{"weight_map": {"a": "b.safetensors"}}', "JSON text without the 8-byte length"),
    # the text
    "not UTF-8": (framed(b'{"\xff":1}'), r"not UTF-8 \(byte 2\)"),
    "starts with a blank": (framed(" {}"), "starts with ' ', not with '{'"),
    "starts with a list": (framed("[]"), r"starts with '\[', not with"),
    "starts with a byte order mark": (framed("\ufeff{}"), r"starts with '\\xef'"),
    "not JSON": (framed('{"a":'), "not JSON: Expecting value at character 5"),
    "zeros as padding": (framed(b"{}\0\0"), "not JSON: Extra data"),
    "a raw control character": (framed('{"a\x01":1}'), "not JSON: Invalid control character"),
    "half a surrogate pair": (one(name=r'"\ud800"'), "half of a surrogate pair in .ud800"),
    "NaN": (one(shape="[NaN]"), "NaN is not JSON"),
    "Infinity": (one(offsets="[0,Infinity]"), "Infinity is not JSON"),
    "minus Infinity": (one(shape="[-Infinity]"), "-Infinity is not JSON"),
    "lists nested 100 000 deep": (framed('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deep"),
    "objects nested 100 000 deep": (framed('{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deep"),
    "nested 100 deep": (framed('{"a":' + "[" * 100 + "]" * 100 + "}"), "tensor a: the entry is a list, not an"),
    # keys twice
    "a tensor twice": (framed("{" + entry() + "," + entry() + "}", b"x"), "key a appears twice"),
    "a tensor twice, once escaped": (framed("{" + entry() + "," + entry(name=r'"\u0061"') + "}", b"x"), "key a app"),
    "__metadata__ twice": (framed('{"__metadata__":{},"__metadata__":{}}'), "key __metadata__ appears twice"),
    "a metadata key twice": (framed('{"__metadata__":{"k":"1","k":"2"}}'), "key k appears twice"),
    "a field twice": (one(dtype='"U8","dtype":"U8"'), "key dtype appears twice"),
    # a tensor's entry
    "an entry that is a list": (framed('{"a":["U8",[1],[0,1]]}', b"x"), "tensor a: the entry is a list, not an"),
    "an entry that is null": (framed('{"a":null}'), "tensor a: the entry is null, not"),
    "an unknown field": (one(dtype='"U8","x":1'), "unknown field x"),
    "no dtype": (framed('{"a":{"shape":[1],"data_offsets":[0,1]}}', b"x"), "tensor a: the entry has no dtype"),
    "no shape": (framed('{"a":{"dtype":"U8","data_offsets":[0,1]}}', b"x"), "tensor a: the entry has no shape"),
    "no data_offsets": (framed('{"a":{"dtype":"U8","shape":[1]}}', b"x"), "tensor a: the entry has no data_offsets"),
    "unknown dtype": (one(dtype='"F33"'), "tensor a: unknown dtype F33; known are BOOL, "),
    "dtype in lower case": (one(dtype='"u8"'), "unknown dtype u8"),
    "dtype a number": (one(dtype="8"), "dtype is the number 8"),
    "dtype an object": (one(dtype='{"U8":null}'), "dtype is an object"),
    "shape a number": (one(shape="1"), "shape is the number 1, not a list"),
    "shape negative": (one(shape="[-1]"), "shape has the number -1"),
    "shape two negatives": (one(shape="[-1,-1]"), "shape has the number -1"),
    "shape minus zero": (one(shape="[-0]", offsets="[0,0]"), "shape has the number -0.0"),
    "shape a bool": (one(shape="[true]"), "shape has true"),
    "shape a float": (one(shape="[1.0]"), "shape has the number 1.0"),
    "shape an exponent": (one(shape="[1e0]"), "shape has the number 1.0"),
    "shape text": (one(shape='["1"]'), "shape has the text 1"),
    "shape null": (one(shape="[null]"), "shape has null"),
    "shape of 2**63": (one(shape="[9223372036854775808]"), "shape has the number 9223372036854775808"),
    "shape of 5000 digits": (one(shape=f"[{BIG}]"), "a number of 5000 digits"),
    "shape overflows": (one(shape="[4294967296,4294967296]"), "overflows 63 bits"),
    "shape overflows beside a 0": (one(shape="[4294967296,4294967296,0]", offsets="[0,0]"), "overflows 63 bits"),
    "a size of 2**63 beside a 0": (
        framed("{" + entry(shape="[0,9223372036854775808]", offsets="[0,0]") + "}"),
        "shape has the number 9223372036854775808",
    ),
    "shape overflows behind a 0": (
        framed("{" + entry(shape="[0,4294967296,4294967296]", offsets="[0,0]") + "}"),
        "overflows 63 bits",
    ),
    "shape 1e999": (one(shape="[1e999]"), "1e999 overflows 64 bits, in a value of the header"),
    "half a byte": (one(dtype='"F4"'), r"ends inside a byte \(4 bits\)"),
    "offsets a number": (one(offsets="1"), "not a list of two"),
    "offsets of three": (one(offsets="[0,1,1]"), "not a list of two"),
    "offsets negative": (one(offsets="[-1,0]"), "data_offsets has the number -1"),
    "offsets a bool": (one(offsets="[false,true]"), "data_offsets has false"),
    "offsets a float": (one(offsets="[0.0,1]"), "data_offsets has the number 0.0"),
    "offsets overflow": (one(offsets="[0,18446744073709551615]"), "data_offsets has the number 18446744073709551615"),
    "offsets backwards": (one(offsets="[1,0]"), r"data_offsets \[1, 0\] run backwards"),
    "bytes do not fit the shape": (one(dtype='"F32"'), r"F32 of shape \(1\) takes 4 bytes, but data_offsets span 1"),
    # all tensors together
    "overlap": (two((0, 5), (3, 8)), "tensors a and b overlap in bytes 3 to 5"),
    "the same bytes twice": (two((0, 8), (0, 8)), "tensors a and b overlap"),
    "a hole": (two((0, 3), (5, 8)), "no tensor covers bytes 3 to 5, before tensor b"),
    "a hole at the beginning": (two((1, 3), (3, 8)), "no tensor covers bytes 0 to 1, before tensor a"),
    "data cut short": (two((0, 4), (4, 8), 5), "the file was cut short, 3 bytes of data are missing"),
    "data behind the last tensor": (two((0, 4), (4, 8), 9), "the file has 1 byte after the last tensor"),
    "no tensors, but data": (framed("{}", b"x"), "the file has 1 byte after the last tensor"),
    # metadata
    "metadata a list": (framed('{"__metadata__":[]}'), "__metadata__ is a list"),
    "metadata null": (framed('{"__metadata__":null}'), "__metadata__ is null"),
    "metadata a tensor": (framed("{" + entry(name='"__metadata__"') + "}", b"x"), "__metadata__ shape is a list"),
    "metadata value a number": (framed('{"__metadata__":{"step":3}}'), "__metadata__ step is the number 3, not text"),
    "metadata of 65537 keys": (
        framed(json.dumps({"__metadata__": dict.fromkeys(map(str, range(65_537)), "")})),
        "has 65537 entries of metadata, over the limit of 65536",
    ),
    # counts that a header can ask for in few bytes
    "131073 tensors": (
        framed("{" + ",".join(entry(name=f'"{i}"', shape="[0]", offsets="[0,0]") for i in range(131_073)) + "}"),
        "has 131073 tensors, over the limit of 131072",
    ),
    "129 axes": (one(shape=str([1] * 129)), "tensor a: has 129 axes, over the limit of 128"),
    "a million axes of size 0": (one(shape="[" + "0," * 999_999 + "0]", offsets="[0,0]"), "has 1000000 axes"),
    "a name of 65537 characters": (one(name='"' + "a" * 65_537 + '"'), "has 65537 characters in its name"),
    "metadata value an object": (framed('{"__metadata__":{"a":{}}}'), "__metadata__ a is an object"),
}  # fmt: skip
# Refused here, accepted by the reference: each means two things at once, or nothing at all.
STRICTER = {
    "starts with a blank", "a tensor twice", "a tensor twice, once escaped", "a metadata key twice",
    "an entry that is a list", "an unknown field", "dtype an object", "metadata null",
    "a size of 2**63 beside a 0", "shape overflows behind a 0", "metadata of 65537 keys", "131073 tensors", "129 axes",
    "a name of 65537 characters",
}  # fmt: skip


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable(), "one line, without control characters"
    assert message.startswith(str(path)), "the message begins with the file"
    assert len(message) < 500 + len(str(path))
    return message


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_own_line(fault, tmp_path):
    raw, words = FAULTS[fault]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    message = refusal(path)
    with pytest.raises(CheckpointError, match=words):
        raise CheckpointError(message)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_reference_accepts_is_refused_only_where_listed(fault, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(FAULTS[fault][0])
    assert upstream_accepts(path) == (fault in STRICTER)


def upstream_accepts(path):
    try:
        with safetensors.safe_open(path, "np"):
            return True
    except Exception:
        return False


def test_a_file_cut_at_every_byte_is_refused(tmp_path):
    whole = safetensors.numpy.save({"é.weight": np.ones((2, 3), np.float16), "b": np.zeros(3)}, {"format": "pt"})
    path = tmp_path / "x.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        message = refusal(path)
        assert ("fewer than the 8" if length < 8 else "cut short") in message, (length, message)
    path.write_bytes(whole)
    assert list(shard_of_file(path).header.tensors) == ["b", "é.weight"]


def test_any_flipped_byte_of_a_header_is_refused_or_still_agrees_with_the_reference(tmp_path):
    whole = safetensors.numpy.save({"a": np.ones((2, 3), np.float16), "b": np.zeros(3)}, {"format": "pt"})
    data_start = 8 + int.from_bytes(whole[:8], "little")
    path = tmp_path / "x.safetensors"
    for place in range(data_start):
        for flip in (1, 0x20, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            agrees_with_the_reference(path)


def agrees_with_the_reference(path):
    """Refused with our error, or accepted by both with the same tensors."""
    try:
        header = shard_of_file(path).header
    except CheckpointError as error:
        assert str(error).isprintable()
        return
    with safetensors.safe_open(path, "np") as other:
        assert sorted(other.keys()) == sorted(header.tensors)
        assert (other.metadata() or {}) == header.metadata
        for name, info in header.tensors.items():
            assert tuple(other.get_slice(name).get_shape()) == info.shape
            assert other.get_slice(name).get_dtype() == info.dtype


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
@example(b"\x02\0\0\0\0\0\0\0{}")
def test_random_bytes_raise_nothing_else(raw):
    for text in (raw, framed(raw), framed(b"{" + raw + b"}")):
        try:
            parse_header(text)
        except CheckpointError as error:
            assert str(error).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(allow_nan=False) | st.sampled_from(["U8", "F32", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "dtype"]), inner, max_size=2),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["U8", "F16", "F4"]) | json_values,
        "shape": st.lists(st.integers(0, 3), max_size=2) | json_values,
        "data_offsets": st.tuples(st.integers(0, 6), st.integers(0, 6)) | json_values,
    },
)


contents = st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), fields | json_values, max_size=3)


@settings(max_examples=300, deadline=None)
@given(contents, st.integers(0, 9))
def test_what_is_accepted_the_reference_accepts_too(tmp_path_factory, content, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(framed(json.dumps(content), bytes(data)))
    agrees_with_the_reference(path)


def test_mutated_headers_raise_nothing_else(tmp_path):
    rng = random.Random(0)
    whole = safetensors.numpy.save({"a": np.ones((2, 3), np.float16), "b": np.zeros(3)}, {"format": "pt"})
    pieces = [*(bytes([byte]) for byte in b'"{}[],:09- \xff'), b"e1", b".5", b"null", b"\\u0061"]
    path = tmp_path / "x.safetensors"
    for _ in range(800):
        text = bytearray(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 2)] = rng.choice(pieces)
        path.write_bytes(framed(bytes(text), whole[-36:]))
        agrees_with_the_reference(path)


VALID = {
    "nothing": framed("{}"),
    "blanks behind": framed("{}\n\t "),
    "an odd length": framed("{ }  "),
    "empty metadata": framed('{"__metadata__":{}}'),
    "metadata key escaped": framed(r'{"__metadat\u0061__":{"a":"b"}}'),
    "a name without letters": one(name='""'),
    "a whole surrogate pair": one(name=r'"\ud83d\ude00"'),
    "DEL": one(name='"\x7f"'),
    "a scalar": one(shape="[]"),
    "a hundred dimensions": one(shape=str([1] * 100)),
    "four bits twice": one(dtype='"F4"', shape="[2]"),
    "an empty tensor in between": two((0, 0), (0, 8)),
    "a 0 beside a large size": framed("{" + entry(shape="[0,1152921504606846975]", offsets="[0,0]") + "}"),
    "a header of 640 bytes, like a pickle": framed("{}".ljust(640)),
}


@pytest.mark.parametrize("kind", VALID)
def test_valid_files_are_accepted_by_both(kind, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(VALID[kind])
    assert upstream_accepts(path)
    shard_of_file(path)
    agrees_with_the_reference(path)


def test_a_hostile_name_stays_on_its_line(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(one(name=r'"\u001b[2J\u202e\nrm -rf"', dtype='"F32"'))
    assert r"\x1b[2J\u202e\nrm -rf" in refusal(path)


def test_a_pipe_does_not_hang_the_reader(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(tmp_path / "x.safetensors")
    assert "not a regular file" in refusal(tmp_path / "x.safetensors")


def test_a_header_that_is_only_claimed_costs_no_memory(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:  # a sparse file: 100 MB of header, all zeros, no room on the disk
        file.write((100_000_000).to_bytes(8, "little"))
        file.truncate(8 + 100_000_000)
    assert r"starts with '\x00'" in refusal(path)
