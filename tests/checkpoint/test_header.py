"""The header against the reference implementation: same bytes out, same tensors in."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rekernel.checkpoint.header import build_header, parse_header
from rekernel.checkpoint.shard import shard_of_file
from rekernel.errors import CheckpointError
from rekernel.escape import shown, shown_markdown

# torch's names of the format's dtypes.
TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16",
    "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32",
    "C64": "complex64", "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip
AWKWARD = [
    "é",
    "日本語.重み",
    "😀",
    'quo"te',
    "back\\slash",
    "sl/ash",
    "\x00\x01\x1f",
    "\b\t\n\f\r",
    "\x7f\u2028\u202e",
    "",
]


def reference(tensors, metadata):
    """Header bytes of the reference, for (name, dtype, shape)."""
    values = {name: torch.empty(shape, dtype=getattr(torch, TORCH_NAMES[dtype])) for name, dtype, shape in tensors}
    raw = safetensors.torch.save(values, metadata)
    return raw[: 8 + int.from_bytes(raw[:8], "little")]


def known(dtype):
    """Whether the reference can save it: safetensors 0.7 lacks some of float8."""
    try:
        return bool(reference([("x", dtype, (1,))], None))
    except KeyError:
        return False


DTYPES = list(filter(known, TORCH_NAMES))


def test_every_dtype_is_laid_out_as_the_reference_does():
    tensors = [(f"{i % 3}.{dtype}", dtype, (i % 2 + 1, 8)) for i, dtype in enumerate(DTYPES)]
    assert build_header(tensors, {"format": "pt"})[0] == reference(tensors, {"format": "pt"})
    assert build_header(reversed(tensors), {"format": "pt"})[0] == reference(tensors, {"format": "pt"})


def test_dtypes_below_a_byte_follow_the_reference_order():
    shapes = {"F4": (4,), "BOOL": (2,), "U8": (2,), "F6_E3M2": (4,), "F6_E2M3": (4,)}
    _, infos = build_header((f"{i}", dtype, shape) for i, (dtype, shape) in enumerate(shapes.items()))
    assert [(info.dtype, info.nbytes) for info in infos.values()] == [
        ("U8", 2), ("F6_E3M2", 3), ("F6_E2M3", 3), ("F4", 2), ("BOOL", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD, ids=ascii)
def test_names_and_metadata_are_escaped_as_serde_json_does(name):
    tensors = [(name, "U8", (1,)), ("other", "F32", ())]
    assert build_header(tensors, {name: name})[0] == reference(tensors, {name: name})


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        names, st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)), min_size=1
    ),
    st.none() | st.dictionaries(names, names, max_size=1),
)
def test_any_header_equals_the_reference_and_reads_back(described, metadata):
    tensors = [(name, dtype, tuple(shape)) for name, (dtype, shape) in described.items()]
    raw, infos = build_header(tensors, metadata)
    assert raw == reference(tensors, metadata)
    header = parse_header(raw, size=len(raw) + sum(info.nbytes for info in infos.values()))
    assert header.tensors == infos
    assert (header.metadata, header.has_metadata, header.data_start) == (metadata or {}, metadata is not None, len(raw))


def test_golden_bytes_of_save_file(tmp_path):
    tensors = {"b": torch.arange(3, dtype=torch.uint8), "w": torch.ones(2, 2).half(), "é": torch.zeros(())}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    written = (tmp_path / "x.safetensors").read_bytes()
    raw, _ = build_header([("w", "F16", (2, 2)), ("é", "F32", ()), ("b", "U8", (3,))], {"format": "pt"})
    assert raw == (
        b'\xc8\0\0\0\0\0\0\0{"__metadata__":{"format":"pt"},'
        b'"\xc3\xa9":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        b'"w":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]},'
        b'"b":{"dtype":"U8","shape":[3],"data_offsets":[12,15]}}'
    ).ljust(208)
    assert written == raw + bytes(4) + b"\0\x3c" * 4 + b"\0\1\2"
    assert sum(info.nbytes for info in shard_of_file(tmp_path / "x.safetensors").header.tensors.values()) == 15


def test_several_metadata_keys_are_sorted():
    raw, _ = build_header([], {"b": "2", "a": "1", "B": "0"})
    assert raw[8:].rstrip() == b'{"__metadata__":{"B":"0","a":"1","b":"2"}}'


def test_empty_metadata_without_tensors_is_valid_where_the_reference_writes_broken_json():
    ours, _ = build_header([], {})
    assert json.loads(ours[8:]) == {"__metadata__": {}}
    with pytest.raises(json.JSONDecodeError):  # if this fails, the reference was mended: compare the bytes again
        json.loads(safetensors.torch.save({}, {})[8:])
    assert build_header([], None)[0] == safetensors.torch.save({}, None)


def test_a_file_in_any_order_is_read_in_the_order_of_its_data():
    text = (
        b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]},"e":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},'
        b'"a":{"shape":[1],"data_offsets":[0,4],"dtype":"F32"}}\n'
    )
    header = parse_header(len(text).to_bytes(8, "little") + text + bytes(5))
    assert list(header.tensors) == ["a", "e", "b"]
    assert not header.has_metadata


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ([("__metadata__", "U8", (1,))], None, "reserved"),
        ([("a", "U8", (1,)), ("a", "F32", (1,))], None, "two tensors"),
        ([("a", "F7", (1,))], None, "unknown dtype F7"),
        ([("a", "F4", (3,))], None, "ends inside a byte"),
        ([("a", "U8", (-1,))], None, "the number -1"),
        ([("a", "U8", (True,))], None, "shape has true"),
        ([("a", "U8", (2**40, 2**40))], None, "overflows"),
        ([("\ud800", "U8", (1,))], None, "surrogate"),
        ([], {"a": 1}, "the value is the number 1, not text"),
        ([], {"a": "x" * 100_000_000}, "shorten the metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_a_header_is_refused_before_it_is_written(tensors, metadata, words):
    with pytest.raises(CheckpointError, match=words):
        build_header(tensors, metadata)


@given(st.text(), st.integers(8, 60))
def test_shown_is_one_printable_line_within_the_limit(name, limit):
    text = shown(name, limit)
    assert text.isprintable() and 0 < len(text) <= limit


def test_shown_leaves_ordinary_names_alone():
    for name in ("down_blocks.0.resnets.1.conv1.weight", "a b", "日本語"):
        assert shown(name) == name


def test_shown_takes_no_time_over_a_huge_name():
    assert shown("\x1b" * 50_000_000, 20) == r"\x1b\x1b...\x1b\x1b"


@given(st.text())
def test_shown_markdown_holds_no_markup(name):
    text = shown_markdown(name)
    assert not set(text) & set("|<>`*[]\\~!$@:\"'{}^\n\r")
    assert "www." not in text.lower()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv_in.weight", "conv_in.weight"),
        ("_private_", "&#95;private&#95;"),
        ("www.example.org", "www&#46;example.org"),
        ("a\nb", "a&#92;nb"),
        ("&lt;", "&#38;lt;"),
        ("- item", "&#45; item"),
    ],
)
def test_shown_markdown_examples(name, expected):
    assert shown_markdown(name) == expected


def listing(count, metadata=0):
    """The header of `count` empty tensors, as bytes."""
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    document = {"__metadata__": {str(i): "" for i in range(metadata)}} if metadata else {}
    text = json.dumps({**document, **{str(i): entry for i in range(count)}}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("most", "more", "said"),
    [((1 << 17, 0), (1, 0), "131073 tensors"), ((1, 1 << 16), (0, 1), "65537 entries of metadata")],
)
def test_a_header_lists_so_much_and_not_one_more(most, more, said):
    for extra in (0, 1):
        raw = listing(*(a + extra * b for a, b in zip(most, more, strict=True)))
        if not extra:
            assert len(parse_header(raw, size=len(raw), where="x").tensors) == most[0]
        else:
            with pytest.raises(CheckpointError, match=said):
                parse_header(raw, size=len(raw), where="x")


def test_a_span_that_does_not_fit_is_told_as_it_is():
    entries = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
               "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 9]}}  # fmt: skip
    text = json.dumps(entries).encode()
    raw = len(text).to_bytes(8, "little") + text
    with pytest.raises(CheckpointError, match=r"takes 4 bytes, but data_offsets span 5\."):
        parse_header(raw, size=len(raw) + 9, where="x")
