"""Opening and reading checkpoints: files, shards, folders, the Hub's cache, pipelines."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from rekernel.checkpoint.open_local import open_checkpoint
from rekernel.checkpoint.pipeline_folder import find_pipeline
from rekernel.checkpoint.tensor_source import Checkpoint
from rekernel.errors import CheckpointError

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(5, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float16),
    "scalar": np.array(7, np.int64),
}


def save(path, arrays=ARRAYS, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays, path, metadata)
    return path


def save_sharded(folder, stem="model", shards=(("a", "empty"), ("b", "scalar"))):
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for i, names in enumerate(shards):
        file = f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        save(folder / file, {name: ARRAYS[name] for name in names}, {"format": "pt", "shard": str(i)})
        weights |= dict.fromkeys(names, file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 37}, "weight_map": weights}))
    return index


def assert_reads(source):
    assert sorted(source) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert source.read(name) == array.tobytes()
        assert source.tensors[name].shape == array.shape
        for start in range(min(array.nbytes, 3)):
            assert source.read_range(name, start, array.nbytes) == array.tobytes()[start:]


def refused(path, words, **options):
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(path, **options)
    assert str(caught.value).isprintable()


def test_a_file_is_read_in_the_order_of_its_data(tmp_path):
    path = save(tmp_path / "x.safetensors", metadata={"format": "np"})
    with open_checkpoint(path) as source:
        assert isinstance(source, Checkpoint)
        assert (source.kind, source.path, source.index, source.files) == ("file", path, None, (path,))
        assert source.metadata == {"format": "np"}
        assert list(source) == ["scalar", "a", "empty", "b"]
        assert source.shard_of("a").path == path
        assert_reads(source)


@pytest.mark.parametrize("opened", ["index", "folder"])
def test_a_sharded_checkpoint_is_one_source(opened, tmp_path):
    index = save_sharded(tmp_path / "repo")
    with open_checkpoint(index if opened == "index" else index.parent) as source:
        assert isinstance(source, Checkpoint)
        assert (source.kind, source.path) == ("sharded", index)
        assert source.index["metadata"] == {"total_size": 37}
        assert source.metadata == {"format": "pt", "shard": "0"}
        assert list(source) == ["a", "empty", "scalar", "b"]
        assert source.shard_of("b").path.name == "model-00002-of-00002.safetensors"
        assert len(source.files) == 3
        assert_reads(source)


def open_files():
    """How many descriptors this process holds; 0 where the system does not say."""
    listing = Path("/proc/self/fd")
    return len(list(listing.iterdir())) if listing.is_dir() else 0


def test_closing_closes_the_files_and_reading_reopens_them(tmp_path):
    source = open_checkpoint(save_sharded(tmp_path))
    before = open_files()
    assert_reads(source)
    source.close()
    assert open_files() == before
    assert_reads(source)
    source.close()


def test_threads_may_read_at_once(tmp_path):
    arrays = {str(i): np.full(1000, i, np.uint16) for i in range(40)}
    with open_checkpoint(save(tmp_path / "x.safetensors", arrays)) as source:
        right = []

        def work(names):
            right.extend(source.read(name) == arrays[name].tobytes() for name in names)

        threads = [threading.Thread(target=work, args=(list(arrays)[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert right == [True] * 40


@pytest.mark.parametrize("start, stop", [(-1, 4), (0, 25), (8, 4)])
def test_a_range_outside_the_tensor_is_refused(start, stop, tmp_path):
    with open_checkpoint(save(tmp_path / "x.safetensors")) as source, pytest.raises(CheckpointError, match="of 24"):
        source.read_range("a", start, stop)


def test_an_unknown_tensor_is_named(tmp_path):
    source = open_checkpoint(save(tmp_path / "x.safetensors"))
    with pytest.raises(CheckpointError, match="has no tensor c among its 4"):
        source.read("c")


def overwrite(path):
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(path, ns=(0, 0))  # clocks of file systems are coarse


def replace(path):
    save(path.with_name("new"))
    os.utime(path.with_name("new"), ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    path.with_name("new").replace(path)


@pytest.mark.parametrize("when", ["before the first read", "after a read"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), "cut short|changed since"),
        (overwrite, "changed since it was opened"),
        (replace, "changed since it was opened"),
        (lambda path: path.unlink(), "was removed|No such file"),
    ],
    ids=["truncated", "overwritten", "replaced", "removed"],
)
def test_a_file_changed_since_opening_is_noticed(change, words, when, tmp_path):
    path = save(tmp_path / "x.safetensors")
    with open_checkpoint(path) as source:
        if when == "after a read":
            source.read("a")
        change(path)
        with pytest.raises(CheckpointError, match=words):
            source.read("b")


def test_a_folder_with_one_file_is_that_file(tmp_path):
    path = save(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "._diffusion_pytorch_model.safetensors").write_bytes(b"a Mac's shadow file")
    with open_checkpoint(tmp_path) as source:
        assert source.path == path


@pytest.mark.parametrize(
    "names",
    [
        ("model.safetensors", "model.fp16.safetensors"),
        ("model.safetensors", "diffusion_pytorch_model.safetensors"),
    ],
)
def test_a_folder_with_several_names_them_all(names, tmp_path):
    for name in names:
        save(tmp_path / name)
    refused(tmp_path, f"several checkpoints here .*{min(names)}, {max(names)}.*pass the path of one")


def test_a_file_beside_an_index_is_ambiguous(tmp_path):
    save_sharded(tmp_path)
    save(tmp_path / "model.safetensors")
    refused(tmp_path, r"model.safetensors.index.json, model.safetensors")


def test_a_variant_index_beside_the_plain_one_is_ambiguous(tmp_path):
    save_sharded(tmp_path)
    variant = save_sharded(tmp_path, "model.fp16")
    variant.rename(tmp_path / "model.safetensors.index.fp16.json")
    refused(tmp_path, r"index.fp16.json, model.safetensors.index.json")
    with open_checkpoint(tmp_path / "model.safetensors.index.fp16.json") as source:
        assert_reads(source)


def test_shards_without_their_index_are_not_taken_for_the_whole(tmp_path):
    save_sharded(tmp_path).unlink()
    refused(tmp_path, "is one of several shards, but their .*index.json is missing")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "one of several shards")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model_index.json", "{}", "a diffusers pipeline; pass"),
        ("pytorch_model.bin", "x", "only pickles .pytorch_model.bin., which can run code; .* allow_pickle=True"),
        ("README.md", "", "has neither a .safetensors file nor a"),
    ],
)
def test_a_folder_without_weights_says_what_it_is(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    refused(tmp_path, words)


def test_other_paths_are_explained(tmp_path):
    refused(tmp_path / "none", "no such file or folder")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path / "config.json", "not the index of a checkpoint; pass")
    (tmp_path / "link").symlink_to("nowhere")
    refused(tmp_path / "link", "is a link to nowhere, which does not exist; link it again")
    refused(tmp_path / "confg.json", r"no such file or folder; did you mean .*config\.json\?")


def hub_cache(base, files):
    """The Hub client's cache: blobs by digest, a snapshot of links to them."""
    repo = base / "models--org--name"
    snapshot = repo / "snapshots" / "abc123"
    (repo / "blobs").mkdir(parents=True)
    for number, (name, content) in enumerate(files.items()):
        blob = repo / "blobs" / f"{number:064x}"
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_the_hub_cache_may_be_opened_in_every_way(tmp_path):
    index = save_sharded(tmp_path / "plain" / "unet")
    files = {f"unet/{path.name}": path.read_bytes() for path in index.parent.iterdir()}
    snapshot = hub_cache(tmp_path, files)
    for path in (snapshot / "unet", snapshot / "unet" / index.name):
        with open_checkpoint(path) as source:
            assert_reads(source)
    (tmp_path / "link").symlink_to(snapshot)
    with open_checkpoint(tmp_path / "link" / "unet") as source:
        assert_reads(source)


def pipeline_files(tmp_path):
    weights = save(tmp_path / "w.safetensors").read_bytes()
    index = save_sharded(tmp_path / "shards", "diffusion_pytorch_model")
    content = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "force_zeros_for_empty_prompt": True,
    }
    return {
        "model_index.json": json.dumps(content).encode(),
        "README.md": b"",
        "unet/config.json": b"{}",
        **{f"unet/{path.name}": path.read_bytes() for path in index.parent.iterdir()},
        "vae/diffusion_pytorch_model.safetensors": weights,
        "vae/diffusion_pytorch_model.fp16.safetensors": weights,
        "tokenizer/vocab.json": b"{}",
    }


@pytest.mark.parametrize("layout", ["plain", "cache"])
def test_a_pipeline_is_its_components_and_all_other_files(layout, tmp_path):
    files = pipeline_files(tmp_path)
    if layout == "cache":
        folder = hub_cache(tmp_path, files)
    else:
        folder = tmp_path / "pipeline"
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").touch()
    pipeline = find_pipeline(folder)
    assert list(pipeline.components) == ["unet", "vae", "tokenizer"]
    assert [path.as_posix() for path in pipeline.files] == [
        "README.md", "model_index.json", "tokenizer/vocab.json", "unet/config.json",
    ]  # fmt: skip
    unet, vae, tokenizer = pipeline.components.values()
    assert unet.checkpoint == folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    assert (unet.library, unet.class_name, len(unet.files)) == ("diffusers", "UNet2DConditionModel", 3)
    with open_checkpoint(unet.checkpoint) as source:
        assert_reads(source)
    assert tokenizer.checkpoint is None
    with pytest.raises(CheckpointError, match=r"several checkpoints here .*fp16"):
        _ = vae.checkpoint


def test_a_folder_without_model_index_is_no_pipeline(tmp_path):
    assert find_pipeline(tmp_path) is None
