"""`force` over a folder: the old result is whole until the new one is, wherever the run is killed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import rekernel as rk
from rekernel.conversion.aside import unfinished

from .killed import killer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def files(folder):
    """All files that are not rekernel's own."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if ".rekernel-" not in name}


def weights(seed, count=2):
    rng = np.random.default_rng(seed)
    return {f"blocks.{seed}.{i}.conv.weight": rng.normal(size=(4, 4, 3, 3)).astype(np.float32) for i in range(count)}


def single(folder):
    folder.mkdir()
    save_file(weights(0), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")


def shards(folder):
    folder.mkdir()
    names = {}
    for i in range(3):
        name = f"model-{i + 1:05d}-of-00003.safetensors"
        save_file(weights(i), folder / name)
        names |= dict.fromkeys(weights(i), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def pipeline(folder):
    (folder / "unet").mkdir(parents=True)
    (folder / "vae").mkdir()
    save_file(weights(0), folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(weights(1), folder / "vae" / "diffusion_pytorch_model.safetensors")
    parts = {"unet": ["diffusers", "UNet2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", **parts}))


def convert(source, target, scale, **options):
    return rk.convert(source, target, scale=scale, mode="supersample", **options)


@pytest.fixture(params=[single, shards, pipeline], ids=lambda make: make.__name__)
def results(request, tmp_path):
    """A source, and the folders that it gives at two scales: the old result and the new one."""
    request.param(tmp_path / "in")
    for name, scale in (("old", 3), ("new", 2)):
        convert(tmp_path / "in", tmp_path / name, scale)
    return tmp_path


def kills(results, every, **how):
    """What a run into a copy of the old result leaves when it is killed at each of its steps, or at some of them."""
    target = results / "where" / "out"
    with killer() as server:
        for step in range(0, 1000, every):
            shutil.rmtree(target.parent, ignore_errors=True)
            shutil.copytree(results / "old", target)
            if not server.run(step, results / "in", target, scale=2, mode="supersample", force=True, **how):
                return
            yield target


EVERY = pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])


def check_repaired(results, target, new):
    """Both a run that resumes and one that starts again end with the new result, and leave nothing beside it."""
    again = target.parent / "again"
    shutil.copytree(target.parent, again)
    convert(results / "in", target, 2, resume=True)
    convert(results / "in", again / target.name, 2, force=True)
    for folder in (target, again / target.name):
        assert files(folder) == new
        assert [p.name for p in folder.rglob("*") if ".rekernel" in p.name] == []
    shutil.rmtree(again)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges two folders in one step")
@EVERY
def test_killed_at_each_step_the_folder_is_the_old_one_or_the_new_one(every, results):
    old, new = files(results / "old"), files(results / "new")
    seen = []
    for number, target in enumerate(kills(results, every)):
        found = files(target)
        assert found in (old, new)
        seen.append(found == new)
        if number % 3 == 0:
            check_repaired(results, target, new)
    assert seen == sorted(seen) and len(seen) > 20 // every - 1
    assert every > 1 or {*seen} == {False, True}


@pytest.mark.slow
def test_without_an_exchange_the_next_run_puts_the_old_folder_back(results):
    """On such a system the folder is away between two renames."""
    old, new = files(results / "old"), files(results / "new")
    away = 0
    for target in kills(results, 1, exchange=False):
        if not target.exists():
            away += 1
            with pytest.raises(rk.RekernelError, match="exists already"):
                convert(results / "in", target, 2)
            assert files(target) == old
            check_repaired(results, target, new)
        assert files(target) in (old, new)
    assert away == 1


@EVERY
def test_a_folder_with_files_of_the_users_keeps_them_and_is_repaired(every, results):
    new = files(results / "new") | {"mine.txt": b"mine"}
    (results / "old" / "mine.txt").write_bytes(b"mine")
    old = files(results / "old")
    mixed = 0
    for number, target in enumerate(kills(results, every)):
        assert (target / "mine.txt").read_bytes() == b"mine"
        found = files(target)
        mixed += found not in (old, new)
        if found not in (old, new) or number % 5 == 0:
            check_repaired(results, target, new)
    assert mixed < 12  # while files are replaced one by one, at the end alone


def stop_at_the_last(done, total):
    if done == total:
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_the_old_result_and_resumes(tmp_path):
    shards(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", 3)
    convert(tmp_path / "in", tmp_path / "new", 2)
    old = files(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "in", tmp_path / "out", 2, force=True, progress=stop_at_the_last)
    assert files(tmp_path / "out") == old and unfinished(tmp_path / "out") is not None
    assert convert(tmp_path / "in", tmp_path / "out", 2, resume=True).resumed == 2
    assert files(tmp_path / "out") == files(tmp_path / "new")
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out", "new"}


def test_a_run_that_fails_before_a_file_is_finished_leaves_nothing(tmp_path):
    single(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", 3)
    old = files(tmp_path / "out")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "in", tmp_path / "out", 2, force=True, progress=stop)
    assert files(tmp_path / "out") == old
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"} and unfinished(tmp_path / "out") is None


@pytest.mark.parametrize("how", ["link", "current folder", "parent without the right to write"])
def test_where_a_folder_cannot_be_swapped_its_files_are_replaced(how, results, monkeypatch):
    target, real = results / "out", results / "elsewhere" / "real"
    real.parent.mkdir()
    shutil.copytree(results / "old", real)
    if how == "link":
        target.symlink_to(real)
    elif how == "current folder":
        target = real
        monkeypatch.chdir(real)
    else:
        target = real
        monkeypatch.setattr("os.access", lambda path, mode: False)
    convert(results / "in", target, 2, force=True)
    assert files(real) == files(results / "new")
    assert target.is_symlink() == (how == "link")
    assert [p.name for p in results.rglob("*rekernel*")] == []
    assert [p.name for p in real.parent.iterdir()] == ["real"]


def test_permissions_stay_with_the_folder_and_its_files(results):
    target = results / "old"
    for path in (target, *target.rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)
    convert(results / "in", target, 2, force=True)
    assert files(target) == files(results / "new")
    for path in (target, *target.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_a_private_source_gives_a_private_result(results):
    source, target = results / "in", results / "out"
    for path in (source, *source.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    convert(source, target, 2)
    for path in (target, *target.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_a_stranger_put_in_the_way_is_not_followed(tmp_path):
    single(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", 3)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_bytes(b"x")
    (tmp_path / ".out.rekernel-new").symlink_to(tmp_path / "victim")
    convert(tmp_path / "in", tmp_path / "out", 2, force=True)
    assert files(tmp_path / "victim") == {"precious": b"x"}
    convert(tmp_path / "in", tmp_path / "new", 2)
    assert files(tmp_path / "out") == files(tmp_path / "new")
