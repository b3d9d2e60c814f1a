"""Indices, folders and links that lie; tests/hostile/README.md lists them in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from rekernel.checkpoint.open_local import open_checkpoint
from rekernel.checkpoint.pipeline_folder import find_pipeline
from rekernel.errors import CheckpointError

ONE = safetensors.numpy.save({"a": np.zeros(2, np.uint8)})
TWO = safetensors.numpy.save({"b": np.zeros(2, np.uint8)})


@pytest.fixture
def folder(tmp_path):
    """A folder with two shards and no index; a third one lies outside."""
    (tmp_path / "secret.safetensors").write_bytes(ONE)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "one.safetensors").write_bytes(ONE)
    (folder / "two.safetensors").write_bytes(TWO)
    return folder


def refusal(folder, index, words):
    path = folder / "model.safetensors.index.json"
    path.write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())
    for opened in (path, folder):
        with pytest.raises(CheckpointError, match=words) as caught:
            open_checkpoint(opened)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 800 + 2 * len(str(folder))


def good(**changed):
    return {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"} | changed}


def test_the_untouched_index_opens(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps(good()))
    with open_checkpoint(folder) as source:
        assert list(source) == ["a", "b"]


FAULTS = {
    "not JSON": (b'{"weight_map": ', "the index is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "the index is not UTF-8"),
    "a list": (b"[]", "not a JSON object"),
    "empty": (b"", "not a JSON object"),
    "HTML": (b"<!doctype html><html></html>", "HTML page"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a key twice": (b'{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "key a appears twice"),
    "weight_map twice": (b'{"weight_map": {}, "weight_map": {}}', "key weight_map appears twice"),
    "NaN": (b'{"metadata": {"total_size": NaN}, "weight_map": {}}', "NaN is not JSON"),
    "nested deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    "a huge number": (b'{"metadata": {"total_size": ' + b"9" * 5000 + b"}}", "number of 5000 digits"),
    "no weight_map": ({"metadata": {}}, "no weight_map"),
    "weight_map a list": ({"weight_map": ["one.safetensors"]}, "no weight_map"),
    "weight_map empty": ({"weight_map": {}}, "no weight_map"),
    "metadata a list": (good() | {"metadata": []}, "its metadata is not an object"),
    "a file name that is a number": (good(a=1), "the weight_map entry of tensor a is not a file name"),
    "a missing shard": (good(c="three.safetensors"), "shard three.safetensors is missing"),
    "a tensor absent from its shard": (good(c="two.safetensors"), "tensor c is not in its shard two.safetensors"),
    "a tensor in another shard": (good(a="two.safetensors", c="one.safetensors"), "tensor a is not in its shard two"),
    "a tensor that is not listed": (
        {"weight_map": {"c": "one.safetensors", "b": "two.safetensors"}},
        "tensor a is in shard one.safetensors, but not listed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_own_line(fault, folder):
    refusal(folder, *FAULTS[fault])


def test_a_tensor_in_two_shards_is_refused(folder):
    (folder / "two.safetensors").write_bytes(ONE)
    refusal(folder, good(), "tensor a is in two shards, one.safetensors and two.safetensors")


def test_a_broken_shard_is_named(folder):
    (folder / "two.safetensors").write_bytes(TWO[:-1])
    refusal(folder, good(), "two.safetensors: the file was cut short, 1 byte of data is missing")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors", "..", ".", "", "./one.safetensors", "sub/one.safetensors", "/etc/passwd",
        "C:one.safetensors", "C:\\one.safetensors", "..\\secret.safetensors", "one.safetensors\0", "one.safetensors\n",
        "one.safetensors:stream", "\\\\server\\share", "one.safetensors.", "one.safetensors ",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_shard_has_a_plain_name(name, folder):
    refusal(folder, good(a=name), "is not a plain file name inside the folder; refused")


def test_a_link_out_of_the_folder_is_refused(folder):
    (folder / "one.safetensors").unlink()
    (folder / "one.safetensors").symlink_to("../secret.safetensors")
    refusal(folder, good(), "a link that leads out of its folder, to .*secret.safetensors; refused")


def test_a_link_within_the_folder_is_followed(folder):
    (folder / "one.safetensors").rename(folder / "real")
    (folder / "one.safetensors").symlink_to("real")
    (folder / "model.safetensors.index.json").write_text(json.dumps(good()))
    with open_checkpoint(folder) as source:
        assert source.read("a") == bytes(2)


def test_the_only_file_of_a_folder_may_not_be_a_link_out(folder):
    (folder / "one.safetensors").unlink()
    (folder / "two.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../secret.safetensors")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        open_checkpoint(folder)
    with open_checkpoint(folder / "model.safetensors") as source:  # named by the user, not by the folder
        assert list(source) == ["a"]


@pytest.mark.parametrize("trick", ["other repository", "blobs is a link", "no snapshots", "below blobs"])
def test_only_the_blobs_of_the_same_repository_are_allowed(trick, tmp_path):
    repo, other = tmp_path / "models--a--b", tmp_path / "models--c--d"
    snapshot = repo / ("revisions" if trick == "no snapshots" else "snapshots") / "abc"
    snapshot.mkdir(parents=True)
    place = {"other repository": other / "blobs", "below blobs": repo / "blobs" / "sub"}.get(trick, repo / "blobs")
    if trick == "blobs is a link":
        other.mkdir()
        place.symlink_to(other)
    place.mkdir(parents=True, exist_ok=True)
    (place / "123").write_bytes(ONE)
    (snapshot / "model.safetensors").symlink_to(place / "123")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        open_checkpoint(snapshot)


def pipeline_refusal(folder, content, words):
    (folder / "model_index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=words) as caught:
        find_pipeline(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../secret", "/etc", "a/b", "..", "a\\b", "C:", "a\0"], ids=ascii)
def test_a_component_has_a_plain_name(name, folder):
    pipeline_refusal(folder, {name: ["diffusers", "UNet2DModel"]}, "component .* is not a plain file name")


def test_a_component_that_is_a_link_is_refused(folder):
    (folder / "unet").symlink_to("..")
    pipeline_refusal(folder, {"unet": ["diffusers", "UNet2DModel"]}, "unet: is a link, which rekernel does not follow")


def test_a_link_out_of_a_pipeline_is_refused(folder):
    (folder / "notes.txt").symlink_to("../secret.safetensors")
    pipeline_refusal(folder, {}, "notes.txt: is a link that leads out")


def test_a_link_to_a_folder_is_refused_even_inside(folder):
    (folder / "sub").mkdir()
    (folder / "again").symlink_to("sub")
    pipeline_refusal(folder, {}, "again: is a link to a folder, which rekernel does not follow")


def test_a_dangling_link_is_refused(folder):
    (folder / "vocab.json").symlink_to("gone.json")
    pipeline_refusal(folder, {}, "vocab.json: is a link to a file that is missing")


def test_a_hostile_component_index_is_refused(folder):
    (folder / "unet").mkdir()
    (folder / "unet" / "x.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    )
    pipeline_refusal(folder, {"unet": ["diffusers", "UNet2DModel"]}, "not a plain file name")


def test_a_pipeline_index_that_is_a_link_out_is_refused(folder):
    (folder.parent / "outside.json").write_text("{}")
    (folder / "model_index.json").symlink_to("../outside.json")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        find_pipeline(folder)
