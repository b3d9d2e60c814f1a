"""Conversion of folders: shards and their index, repacking, diffusers pipelines, and what may be written where."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file, save_file

from rekernel import RekernelError, convert, inspect, resample_conv
from rekernel.checkpoint.shard import shard_of_file

from ..numeric import assert_bits, assert_ulps

SEED = 5
SUPERSAMPLE = {"mode": "supersample", "method": "optimal"}


def arrays(seed=SEED):
    rng = np.random.default_rng(seed)
    shapes = {f"layer.{i}.weight": (6, 4, 3, 3) for i in range(4)} | {"fc.weight": (10, 16), "fc.bias": (10,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def sharded(folder, stem="model", variant="", metadata=None):
    """Three shards with an index, and what a Hub repository has beside them."""
    folder.mkdir(parents=True)
    tensors = list(arrays().items())
    weight_map = {}
    for i in range(3):
        name = f"{stem}{variant}-{i + 1:05d}-of-00003.safetensors"
        save_file(dict(tensors[i::3]), folder / name, {"format": "pt", "part": str(i)})
        weight_map |= {tensor: name for tensor, _ in tensors[i::3]}
    index = {"metadata": {"total_size": 1, "by": "me"} | (metadata or {}), "weight_map": weight_map, "extra": [1]}
    (folder / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub").mkdir()
    (folder / "sub" / "vocab.txt").write_bytes(b"\0\1")
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def loaded(folder):
    return {name: array for path in folder.glob("*.safetensors") for name, array in load_file(path).items()}


def check_values(found):
    assert set(found) == set(arrays())
    for name, before in arrays().items():
        if before.ndim == 4:  # in pieces here and whole there
            assert_ulps(found[name], resample_conv(before, 2), what=name)
        else:
            assert_bits(found[name], before, name)


def test_shards_stay_the_shards_they_were(tmp_path):
    source, target = sharded(tmp_path / "in"), tmp_path / "out"
    report = convert(source, target, scale=2, **SUPERSAMPLE)
    assert set(contents(target)) == set(contents(source))
    for i in range(3):
        name = f"model-{i + 1:05d}-of-00003.safetensors"
        header = shard_of_file(target / name).header
        assert set(header.tensors) == set(shard_of_file(source / name).header.tensors)
        assert header.metadata["part"] == str(i) and header.metadata["format"] == "pt"
    index = json.loads((target / "model.safetensors.index.json").read_text())
    before = json.loads((source / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == before["weight_map"] and index["extra"] == [1] and index["metadata"]["by"] == "me"
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in loaded(target).values())
    assert (target / "sub" / "vocab.txt").read_bytes() == b"\0\1"
    check_values(loaded(target))
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(source.glob("*.safetensors"))]
    assert [s.sha256 for s in inspect(target).recipe.sources] == digests
    assert report.bytes_written == sum(p.stat().st_size for p in target.glob("*.safetensors"))


def test_the_index_alone_leaves_the_other_files(tmp_path):
    source = sharded(tmp_path / "in")
    convert(source / "model.safetensors.index.json", tmp_path / "out", scale=2)
    assert set(contents(tmp_path / "out")) == {n for n in contents(source) if n.startswith("model")}


def test_a_count_of_parameters_in_the_index_follows_the_new_shapes(tmp_path):
    count = sum(a.size for a in arrays().values())
    convert(sharded(tmp_path / "in", metadata={"total_parameters": count}), tmp_path / "out", scale=2)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_parameters"] == sum(a.size for a in loaded(tmp_path / "out").values())


@pytest.mark.parametrize("kind", ["file", "sharded"])
def test_a_limit_of_one_byte_gives_each_tensor_a_file(kind, tmp_path):
    source = sharded(tmp_path / "in")
    if kind == "file":
        source = tmp_path / "model.safetensors"
        save_file(arrays(), source)
    convert(source, tmp_path / "out", scale=2, max_shard_size=1, **SUPERSAMPLE)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [p.name for p in files] == [f"model-{i:05d}-of-00006.safetensors" for i in range(1, 7)]
    assert {len(shard_of_file(p).header.tensors) for p in files} == {1}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(arrays())
    check_values(loaded(tmp_path / "out"))


@pytest.mark.parametrize("limit", [700, 3000, 6000])
def test_no_shard_exceeds_the_limit_unless_it_is_one_tensor(limit, tmp_path):
    convert(sharded(tmp_path / "in"), tmp_path / "out", scale=2, max_shard_size=limit, **SUPERSAMPLE)
    for path in (tmp_path / "out").glob("*.safetensors"):
        header = shard_of_file(path).header
        assert sum(info.nbytes for info in header.tensors.values()) <= limit or len(header.tensors) == 1
    check_values(loaded(tmp_path / "out"))
    assert inspect(tmp_path / "out").recipe is not None


def test_a_huge_limit_gives_one_file_without_an_index(tmp_path):
    convert(sharded(tmp_path / "in"), tmp_path / "out", scale=2, max_shard_size=10**12, **SUPERSAMPLE)
    assert set(contents(tmp_path / "out")) == {"model.safetensors", "config.json", "sub/vocab.txt"}
    check_values(loaded(tmp_path / "out"))


def test_a_variant_keeps_its_name_in_files_and_index(tmp_path):
    source = sharded(tmp_path / "in", "diffusion_pytorch_model", ".fp16")
    convert(source, tmp_path / "same", scale=2)
    assert set(contents(tmp_path / "same")) == set(contents(source))
    convert(source, tmp_path / "one", scale=2, max_shard_size=10**9)
    assert {"diffusion_pytorch_model.fp16.safetensors"} <= set(contents(tmp_path / "one"))
    convert(source, tmp_path / "one", scale=2, max_shard_size=3000, force=True)
    names = {n for n in contents(tmp_path / "one") if n.startswith("diff")}
    assert "diffusion_pytorch_model.fp16.safetensors" not in names
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in names
    convert(source, tmp_path / "one", scale=2, max_shard_size=10**9, force=True)
    names = {n for n in contents(tmp_path / "one") if n.startswith("diff")}
    assert names == {"diffusion_pytorch_model.fp16.safetensors"}


def test_force_leaves_no_stale_shard_and_without_it_nothing_is_mixed(tmp_path):
    source, target = sharded(tmp_path / "in"), tmp_path / "out"
    convert(source, target, scale=2, max_shard_size=1)
    before = contents(target)
    for options in ({}, {"max_shard_size": 10**9}, {"resume": True, "max_shard_size": 3000}):
        with pytest.raises(RekernelError, match=r"exists already|belongs to another conversion"):
            convert(source, target, scale=2, **options)
        assert contents(target) == before
    convert(source, target, scale=2, force=True)
    fresh = tmp_path / "fresh"
    convert(source, fresh, scale=2)
    assert contents(target) == contents(fresh)
    (target / "mine.txt").write_text("kept")
    (target / "other.safetensors").write_bytes(b"also kept")
    convert(source, target, scale=3, force=True, max_shard_size=10**9)
    assert set(contents(target)) == {
        "model.safetensors",
        "config.json",
        "sub/vocab.txt",
        "mine.txt",
        "other.safetensors",
    }


def test_stale_weights_in_other_formats_are_not_copied(tmp_path):
    source = sharded(tmp_path / "in")
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack", "tf_model.h5", "x.onnx"):
        (source / name).write_bytes(b"old weights")
    report = convert(source, tmp_path / "out", scale=2)
    assert set(contents(tmp_path / "out")) == {n for n in contents(source) if n.startswith(("model", "config", "sub"))}
    assert {p.name for p in report.skipped} == set(contents(source)) - set(contents(tmp_path / "out"))


def test_a_snapshot_of_the_hub_cache_becomes_plain_files(tmp_path):
    real = sharded(tmp_path / "real")
    repo = tmp_path / "models--a--b"
    snapshot = repo / "snapshots" / "abc"
    (snapshot / "sub").mkdir(parents=True)
    (repo / "blobs").mkdir()
    for i, (name, data) in enumerate(contents(real).items()):
        (repo / "blobs" / str(i)).write_bytes(data)
        (snapshot / name).symlink_to(repo / "blobs" / str(i))
    convert(snapshot, tmp_path / "out", scale=2)
    convert(real, tmp_path / "plain", scale=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_symlink()]
    assert contents(snapshot) == contents(real)


def test_progress_over_a_folder_reaches_its_total(tmp_path):
    heard = []
    convert(sharded(tmp_path / "in"), tmp_path / "out", scale=2, progress=lambda *a: heard.append(a))
    done = [d for d, _ in heard]
    assert done == sorted(done) and {t for _, t in heard} == {done[-1]}
    others = sum(len(d) for n, d in contents(tmp_path / "out").items() if not n.startswith("model"))
    assert done[-1] == others + sum(a.nbytes for a in loaded(tmp_path / "out").values())


@pytest.fixture
def single(tmp_path):
    path = tmp_path / "in.safetensors"
    save_file(arrays(), path)
    return path


def test_a_file_goes_to_a_file_a_folder_or_a_folder_to_be(single, tmp_path):
    convert(single, tmp_path / "out.safetensors", scale=2)
    data = (tmp_path / "out.safetensors").read_bytes()
    (tmp_path / "there").mkdir()
    convert(single, tmp_path / "there", scale=2)
    convert(single, f"{tmp_path}/new/deep/", scale=2)
    for folder in (tmp_path / "there", tmp_path / "new" / "deep"):
        assert contents(folder) == {"in.safetensors": data}
    convert(single, tmp_path / "not" / "yet" / "out.safetensors", scale=2)
    assert (tmp_path / "not" / "yet" / "out.safetensors").read_bytes() == data


def test_what_exists_stays_unless_forced(single, tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(RekernelError, match="exists already; pass force=True"):
        convert(single, target, scale=2)
    assert target.read_bytes() == b"mine"
    convert(single, target, scale=2, force=True, **SUPERSAMPLE)
    check_values(load_file(target))
    (tmp_path / "dangling.safetensors").symlink_to("nowhere")
    with pytest.raises(RekernelError, match="exists already"):
        convert(single, tmp_path / "dangling.safetensors", scale=2)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("trick", ["itself", "dots", "hard link", "symlink", "its folder", "its folder, slash"])
def test_the_source_is_never_the_destination(trick, force, single, tmp_path):
    before = single.read_bytes()
    (tmp_path / "d").mkdir()
    other = tmp_path / "out.safetensors"
    if trick == "hard link":
        os.link(single, other)
    elif trick == "symlink":
        other.symlink_to(single)
    target = {
        "itself": single, "dots": tmp_path / "d" / ".." / single.name, "its folder": tmp_path,
        "its folder, slash": f"{tmp_path}/",
    }.get(trick, other)  # fmt: skip
    with pytest.raises(RekernelError, match=r"also an input file|exists already"):
        convert(single, target, scale=2, force=force)
    assert single.read_bytes() == before and len(contents(tmp_path)) == 1 + (target is other)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("in", "the folder of the source"),
        ("in/", "the folder of the source"),
        ("in/../in", "the folder of the source"),
        ("in/sub", "lies inside the source"),
        ("in/new", "lies inside the source"),
        ("link", "the folder of the source"),
        ("link/new", "lies inside the source"),
        ("out.safetensors", "the result is a folder"),
        ("plain.txt", "the result is a folder"),
    ],
)
def test_a_folders_destination_is_another_folder(target, words, tmp_path):
    source = sharded(tmp_path / "in")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "plain.txt").write_text("")
    before = contents(tmp_path)
    with pytest.raises(RekernelError, match=words):
        convert(source, tmp_path / target, scale=2, force=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["out.bin", "out", "out.safetensor", "out.safetensors.bak"])
def test_a_file_has_to_be_called_as_one(name, single, tmp_path):
    with pytest.raises(RekernelError, match=r"the name of a converted file ends in \.safetensors"):
        convert(single, tmp_path / name, scale=2)
    assert contents(tmp_path) == {single.name: single.read_bytes()}


def pipeline(folder):
    folder.mkdir()
    for name in ("unet", "vae"):
        (folder / name).mkdir()
        save_file(arrays(len(name)), folder / name / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"old")
    index = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "A"], "tokenizer": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_component_that_is_a_link_to_the_source_is_not_destroyed(tmp_path):
    source, target = pipeline(tmp_path / "in"), tmp_path / "out"
    target.mkdir()
    (target / "unet").symlink_to(source / "unet")
    before = contents(source)
    for size in (None, 1, 10**9):
        with pytest.raises(RekernelError, match="out/unet: is a link"):
            convert(source, target, scale=2, force=True, max_shard_size=size)
        assert contents(source) == before
    assert sorted(p.name for p in target.iterdir()) == ["unet"]


def test_a_component_can_be_chosen_and_all_else_is_copied(tmp_path):
    source = pipeline(tmp_path / "in")
    report = convert(source, tmp_path / "out", scale=2, components=["vae"])
    before, after = contents(source), contents(tmp_path / "out")
    assert set(after) == set(before)
    assert [n for n in after if after[n] != before[n]] == ["vae/diffusion_pytorch_model.safetensors"]
    assert list(report.plans) == ["vae"]
    report = convert(source, tmp_path / "both", scale=2, components=["vae", "unet"], max_shard_size=1)
    assert len(list((tmp_path / "both" / "unet").glob("*-of-*.safetensors"))) == 6
    assert Path("unet/diffusion_pytorch_model.bin") in report.skipped
    with pytest.raises(RekernelError, match=r"component clip has no safetensors weights; .*unet, vae"):
        convert(source, tmp_path / "no", scale=2, components=["clip"])
    assert not (tmp_path / "no").exists()


def test_a_real_pipeline_folder_is_converted_and_loads(tmp_path):
    pytest.importorskip("torch")
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    source, target = tmp_path / "in", tmp_path / "out"
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    text = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4, vocab_size=100,
    )  # fmt: skip
    unet.save_pretrained(source / "unet")
    vae.save_pretrained(source / "vae")
    transformers.CLIPTextModel(text).save_pretrained(source / "text_encoder")
    diffusers.DDIMScheduler().save_pretrained(source / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None],
    }  # fmt: skip
    (source / "model_index.json").write_text(json.dumps(index))
    (source / "unet" / "diffusion_pytorch_model.fp16.bin").write_bytes(b"old")
    report = convert(source, target, scale=2)
    before, after = contents(source), contents(target)
    changed = "unet/diffusion_pytorch_model.safetensors"
    assert set(before) - set(after) == {"unet/diffusion_pytorch_model.fp16.bin"} and set(after) <= set(before)
    assert [name for name in after if after[name] != before[name]] == [changed]
    assert report.plans["unet"].family == "diffusers UNet" and report.files[-1].name == "model_index.json"
    new, old = load_file(target / changed), load_file(source / changed)
    for change in report.plans["unet"].changes:
        assert new[change.name].shape == change.new_shape
        assert not change.kept or np.array_equal(new[change.name], old[change.name])
    assert inspect(target).components["unet"].recipe is not None
    # The other components still load, and so does the index.
    diffusers.AutoencoderKL.from_pretrained(target / "vae")
    transformers.CLIPTextModel.from_pretrained(target / "text_encoder")
    assert safetensors.numpy.load_file(target / changed)


def test_of_plain_weights_and_a_variant_a_pipeline_s_plain_ones_are_converted(tmp_path):
    unet = tmp_path / "in" / "unet"
    unet.mkdir(parents=True)
    weights = {"down.conv.weight": np.ones((4, 4, 3, 3), np.float32)}
    save_file(weights, unet / "diffusion_pytorch_model.safetensors")
    save_file(weights, unet / "diffusion_pytorch_model.fp16.safetensors")
    (tmp_path / "in" / "model_index.json").write_text('{"_class_name": "P", "unet": ["diffusers", "UNet2DModel"]}')
    report = convert(tmp_path / "in", tmp_path / "out", scale=2)
    assert [p.name for p in (tmp_path / "out" / "unet").iterdir()] == ["diffusion_pytorch_model.safetensors"]
    assert [p.name for p in report.skipped] == ["diffusion_pytorch_model.fp16.safetensors"]
