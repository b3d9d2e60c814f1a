"""Parts that know nothing of one another make the result of one process."""

from __future__ import annotations

import json
import os

import pytest

import rekernel as rk

from .models import contents, sharded


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sharded(tmp_path_factory.mktemp("parts") / "source")


@pytest.fixture(scope="module")
def expected(source):
    rk.convert(source, source.parent / "expected", scale=2)
    return contents(source.parent / "expected")


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("count", [1, 3, 7])
def test_parts_in_any_order_then_finish(source, expected, tmp_path, count):
    target = tmp_path / "out"
    for number in reversed(range(1, count + 1)):
        report = rk.convert(source, target, scale=2, part=f"{number}/{count}")
        assert report.part == f"{number}/{count}"
        assert not target.exists()
    report = rk.convert(source, target, scale=2, finish=True)
    assert contents(target) == expected
    assert left(tmp_path) == ["out"]
    assert report.bytes_written == rk.convert(source, tmp_path / "alone", scale=2).bytes_written


def test_parts_share_the_bytes_evenly(source, tmp_path):
    sizes = [rk.convert(source, tmp_path / "out", scale=2, part=f"{i}/2").nbytes for i in (1, 2)]
    assert max(sizes) < 1.1 * min(sizes)


def test_finish_names_the_files_that_lack_and_changes_nothing(source, expected, tmp_path):
    target = tmp_path / "out"
    rk.convert(source, target, scale=2, part="1/3")
    with pytest.raises(rk.RekernelError, match=r"no part has (hashed|written) .*model-0000.*finish=True"):
        rk.convert(source, target, scale=2, finish=True)
    assert not target.exists() or not contents(target)
    for number in (1, 2, 3):
        report = rk.convert(source, target, scale=2, part=f"{number}/3")
        assert (report.resumed > 0) == (number == 1)  # the first part's files are there already
    rk.convert(source, target, scale=2, finish=True)
    assert contents(target) == expected


def test_a_part_with_other_options_is_not_taken(source, tmp_path):
    rk.convert(source, tmp_path / "out", scale=3, part="1/1")
    with pytest.raises(rk.RekernelError, match=r"wrote this file with other options.* repeat the options of"):
        rk.convert(source, tmp_path / "out", scale=2, finish=True)
    assert not list(tmp_path.rglob("*.index.json"))


def test_a_source_that_changed_since_is_noticed(tmp_path):
    folder = sharded(tmp_path / "source")
    rk.convert(folder, tmp_path / "out", scale=2, part="1/1")
    os.utime(folder / "model-00002-of-00004.safetensors", ns=(1, 1))
    with pytest.raises(rk.RekernelError, match=r"model-00002.*changed since a part has hashed"):
        rk.convert(folder, tmp_path / "out", scale=2, finish=True)


def test_components_in_any_order_whose_files_look_alike(tmp_path):
    """Names, sizes and times of the files of both components are the same, as in an image that can be rebuilt."""
    names = {"unet": ["diffusers", "UNet2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    folder = tmp_path / "pipeline"
    for number, name in enumerate(names):
        sharded(folder / name, seed=number)
        for path in (folder / name).iterdir():
            os.utime(path, ns=(1, 1))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "P", **names}))
    order = [*names]
    rk.convert(folder, tmp_path / "expected", scale=2, components=order)
    for number in (1, 2):
        rk.convert(folder, tmp_path / "out", scale=2, components=order, part=f"{number}/2")
    rk.convert(folder, tmp_path / "out", scale=2, components=order[::-1], finish=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_parts_replace_a_result_only_at_the_end(source, expected, tmp_path):
    target = tmp_path / "out"
    rk.convert(source, target, scale=3)
    before = contents(target)
    with pytest.raises(rk.RekernelError, match=r"exists already and is not empty .* or force=True"):
        rk.convert(source, target, scale=2, part="1/2")
    for number in (1, 2):
        rk.convert(source, target, scale=2, part=f"{number}/2", force=True)
    assert contents(target) == before
    rk.convert(source, target, scale=2, finish=True, force=True)
    assert contents(target) == expected
    assert left(tmp_path) == ["out"]


def test_a_finish_that_failed_half_way_is_resumed(source, expected, tmp_path, monkeypatch):
    target = tmp_path / "out"
    rk.convert(source, target, scale=2, part="1/1")
    from rekernel.conversion.workers.parts import PartsFolder

    real, calls = PartsFolder.take, []

    def fails(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise rk.RekernelError("the disk went away")
        real(self, *args)

    monkeypatch.setattr(PartsFolder, "take", fails)
    with pytest.raises(rk.RekernelError, match="went away"):
        rk.convert(source, target, scale=2, finish=True)
    report = rk.convert(source, target, scale=2, finish=True, resume=True)
    assert report.resumed == 2
    assert contents(target) == expected


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/2/3", 3, ""])
def test_what_is_no_part_is_refused(source, tmp_path, part):
    with pytest.raises(rk.RekernelError, match=r"is not a part; pass one, such as '3/16'"):
        rk.convert(source, tmp_path / "out", scale=2, part=part)


def test_one_file_has_no_parts(source, tmp_path):
    one = source / "model-00001-of-00004.safetensors"
    with pytest.raises(rk.RekernelError, match=r"model-00001.* becomes one file.*pass max_shard_size= and a"):
        rk.convert(one, tmp_path / "out.safetensors", scale=2, part="1/2")
    rk.convert(one, tmp_path / "alone", scale=2, max_shard_size=10_000)
    for number in (1, 2):
        rk.convert(one, tmp_path / "out", scale=2, max_shard_size=10_000, part=f"{number}/2")
    rk.convert(one, tmp_path / "out", scale=2, max_shard_size=10_000, finish=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_the_ways_to_share_out_exclude_each_other(source, tmp_path):
    with pytest.raises(rk.RekernelError, match="three ways to share a conversion out"):
        rk.convert(source, tmp_path / "out", scale=2, part="1/2", finish=True)
