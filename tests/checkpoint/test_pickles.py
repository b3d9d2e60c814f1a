"""Torch's pickles: only when asked for, tensors alone, the same reading as for safetensors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from itertools import pairwise

import pytest
import safetensors.torch
import torch

from rekernel.checkpoint.open_local import open_checkpoint
from rekernel.errors import CheckpointError

SEED = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(4, 6, generator=SEED)
STATE = {
    "weight": WEIGHT,
    "transposed": WEIGHT.T,
    "strided": WEIGHT[:, ::2],
    "half": WEIGHT.to(torch.bfloat16),
    "flag": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 3),
    "conjugate": torch.complex(WEIGHT, -WEIGHT).conj(),
    "parameter": torch.nn.Parameter(WEIGHT + 1),
}


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def assert_reads(source, expected):
    assert sorted(source) == sorted(expected)
    for name, tensor in expected.items():
        data = source.read(name)
        info = source.tensors[name]
        assert (info.shape, info.nbytes) == (tuple(tensor.shape), len(data))
        assert source.read_range(name, 0, info.nbytes) == data
        if data:
            assert torch.equal(torch.frombuffer(data, dtype=tensor.dtype).reshape(tensor.shape), tensor.detach())


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_is_refused_until_asked_for(suffix, tmp_path):
    path = save(tmp_path / f"x{suffix}", STATE)
    with pytest.raises(CheckpointError, match=r"can run code when loaded; convert it .*allow_pickle=True"):
        open_checkpoint(path)
    with open_checkpoint(path, allow_pickle=True) as source:
        assert (source.path, source.files, source.shards, dict(source.metadata)) == (path, (path,), (), {})
        assert_reads(source, STATE)


def test_a_compressed_archive_is_refused_before_anything_is_unpacked(tmp_path):
    plain, packed = save(tmp_path / "x.pt", {"a": torch.zeros(1000, 1000)}), tmp_path / "y.pt"
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as write:
        for name in read.namelist():
            write.writestr(name, read.read(name))
    with pytest.raises(CheckpointError, match=r"is compressed, which torch\.save never does"):
        open_checkpoint(packed, allow_pickle=True)


@pytest.mark.parametrize("place", range(1, 23))
def test_a_broken_end_record_of_an_archive_gives_one_line_or_is_read(place, tmp_path):
    raw = bytearray(save(tmp_path / "x.pt", {"a": WEIGHT}).read_bytes())
    raw[-place] ^= 0xFF
    (tmp_path / "x.pt").write_bytes(raw)
    try:
        with open_checkpoint(tmp_path / "x.pt", allow_pickle=True) as source:
            assert_reads(source, {"a": WEIGHT})
    except CheckpointError as error:
        assert str(error).isprintable()


def test_torch_files_from_before_the_zip_format_are_read(tmp_path):
    path = save(tmp_path / "x.pt", {"weight": WEIGHT}, _use_new_zipfile_serialization=False)
    with open_checkpoint(path, allow_pickle=True) as source:
        assert_reads(source, {"weight": WEIGHT})


def test_a_pickle_named_safetensors_or_in_a_folder_opens_when_asked_for(tmp_path):
    path = save(tmp_path / "x.safetensors", STATE)
    with pytest.raises(CheckpointError, match="torch pickle, not safetensors"):
        open_checkpoint(path)
    with open_checkpoint(path, allow_pickle=True) as source:
        assert_reads(source, STATE)
    path.rename(tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path, allow_pickle=True) as source:
        assert_reads(source, STATE)


def test_safetensors_under_a_pickle_name_are_recognised_by_their_content(tmp_path):
    (tmp_path / "x.bin").write_bytes(safetensors.torch.save({"weight": WEIGHT}))
    with open_checkpoint(tmp_path / "x.bin") as source:
        assert_reads(source, {"weight": WEIGHT})


def test_a_lightning_checkpoint_is_unwrapped_and_the_rest_reported(tmp_path):
    content = {"epoch": 3, "state_dict": OrderedDict(STATE, note="hello"), "optimizer_states": [{}], "stray": WEIGHT}
    with open_checkpoint(save(tmp_path / "x.ckpt", content), allow_pickle=True) as source:
        assert_reads(source, STATE)
        assert sorted(source.skipped) == ["epoch", "note", "optimizer_states", "stray"]


def test_shared_storage_is_reported_and_each_name_read_in_full(tmp_path):
    state = {"embed": WEIGHT, "head": WEIGHT, "row": WEIGHT[1], "alone": torch.ones(3)}
    with open_checkpoint(save(tmp_path / "x.pt", state), allow_pickle=True) as source:
        assert source.shared == (("embed", "head", "row"),)
        assert_reads(source, state)


def test_the_layout_is_that_of_a_safetensors_file(tmp_path):
    with open_checkpoint(save(tmp_path / "x.pt", STATE), allow_pickle=True) as source:
        infos = list(source.tensors.values())
        assert infos[0].start == 0
        assert all(one.end == other.start for one, other in pairwise(infos))


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(zipped, tmp_path):
    target = tmp_path / "pwned"
    content = {"a": WEIGHT, "b": Malicious(target)}
    path = save(tmp_path / "x.pt", content, pickle_protocol=2, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="holds more than tensors") as caught:
        open_checkpoint(path, allow_pickle=True)
    assert str(caught.value).isprintable()
    assert not target.exists()
    path.write_bytes(pickle.dumps(Malicious(target), 2))
    with pytest.raises(CheckpointError):
        open_checkpoint(path, allow_pickle=True)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([WEIGHT], "holds a list, not a map"),
        (WEIGHT, "holds a Tensor, not a map"),
        ({"epoch": 1}, r"no tensors at its top level or under state_dict \(found: epoch\)"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "tensor a: dtype torch.complex128 does not exist"),
        ({"a": WEIGHT.to_sparse()}, "tensor a: is sparse, quantized or without data"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "tensor a: claims 4398046511104 bytes in a file of"),
    ],
    ids=["list", "tensor", "no tensors", "complex128", "sparse", "a terabyte in a kilobyte"],
)
def test_what_cannot_be_converted_says_why(content, words, tmp_path):
    path = save(tmp_path / "x.pt", content)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(path, allow_pickle=True)
    assert str(caught.value).isprintable()


def test_a_pickle_cut_short_is_one_line(tmp_path):
    path = save(tmp_path / "x.pt", {"weight": WEIGHT})
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path, allow_pickle=True)
        assert str(caught.value).isprintable()


def test_a_closed_pickle_says_so(tmp_path):
    with open_checkpoint(save(tmp_path / "x.pt", STATE), allow_pickle=True) as source:
        pass
    with pytest.raises(CheckpointError, match="closed"):
        source.read("weight")


def test_without_torch_the_error_names_the_extra(tmp_path):
    path = save(tmp_path / "x.pt", {"weight": WEIGHT})
    # A real interpreter whose torch is a module that cannot be imported, as a broken installation is.
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('not here')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from rekernel.checkpoint.open_local import open_checkpoint\n"
        "from rekernel.checkpoint.header import CheckpointError\n"
        "try: open_checkpoint(sys.argv[1], allow_pickle=True)\n"
        "except CheckpointError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "broken"], capture_output=True, text=True, check=True
    )
    assert "needs torch; pip install torch" in done.stdout
