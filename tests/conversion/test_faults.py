"""What goes wrong in the middle: killed, no space, no right to write, a source that changes.

Runs the real command in processes of its own; nothing is replaced by a stand-in.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from rekernel import RekernelError, convert

ROOT = Path(__file__).parents[2]
SEED = 20240517
KILLS = 50
INDEX = "model.safetensors.index.json"


def command(*args):
    return [sys.executable, "-m", "rekernel_cli", *map(str, args)]


def environment():
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}"}


def run(*args, prefix=(), cwd=None):
    return subprocess.run(
        [*prefix, *command(*args)], env=environment(), capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


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


def sharded(folder, count=6, channels=96):
    rng = np.random.default_rng(SEED)
    folder.mkdir()
    weight_map = {}
    for i in range(count):
        name = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        tensors = {f"b.{i}.{j}.weight": rng.standard_normal((channels, channels, 3, 3), np.float32) for j in range(2)}
        save_file(tensors, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def source(tmp_path):
    return sharded(tmp_path / "in")


def start(*args):
    return subprocess.Popen(
        command(*args), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def measured(target, *args):
    """Seconds until the first file of `target` appears, and until the run ends, undisturbed."""
    began = time.monotonic()
    process, first = start(*args), None
    while process.poll() is None:
        if first is None and target.exists():
            first = time.monotonic() - began
        time.sleep(0.001)
    assert process.returncode == 0
    end = time.monotonic() - began
    return first or end, end


def kill_after(seconds, *args):
    """Whether the run was still going."""
    process = start(*args)
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True


def kill_while_writing(folder, seconds, *args):
    """Kill a run so long after its partial file has appeared; None lets it end. Returns how long the run wrote."""
    process, began = start(*args), None
    while process.poll() is None:
        if began is None and list(folder.glob(".*.rekernel-partial")):
            began = time.monotonic()
        if began is not None and seconds is not None and time.monotonic() - began >= seconds:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait()
    assert began is not None
    return time.monotonic() - began


def moments(first, end, seed):
    """Without end, over the part of a run that writes; one in five close to its end, where the commit is."""
    rng = random.Random(seed)
    while True:
        for i in range(5):
            yield rng.uniform(end - 0.15 * (end - first), end) if i == 4 else rng.uniform(0.9 * first, end)


def check_never_partial(target, whole):
    """Every file that is there under its own name is the undisturbed run's; the index only with all others."""
    names = {n for n in files(target) if not Path(n).name.startswith(".")} if target.exists() else set()
    for name in names:
        assert (target / name).read_bytes() == whole[name], name
        if name.endswith(".safetensors"):
            with safetensors.safe_open(target / name, "np") as opened:
                assert opened.keys()
    if INDEX in names:
        assert names == set(whole)


@pytest.mark.slow
def test_killed_fifty_times_no_file_is_partial_and_resume_completes_the_same_bytes(tmp_path):
    source = sharded(tmp_path / "in", count=8, channels=160)
    convert(source, tmp_path / "whole", scale=2)
    whole = files(tmp_path / "whole")
    spans = [measured(tmp_path / f"m{i}", "convert", source, tmp_path / f"m{i}", "--scale", 2) for i in range(3)]
    first, end = min(f for f, _ in spans), sorted(e for _, e in spans)[1]
    target, killed, partial, chain = tmp_path / "out", 0, 0, 0
    for attempt, moment in enumerate(moments(first, end, SEED)):
        if killed == KILLS:
            break
        assert attempt < 4 * KILLS, f"only {killed} of {attempt} runs were still going when they were to be killed"
        resume = ("--resume",) if target.exists() else ()
        hit = kill_after(moment, "convert", source, target, "--scale", 2, *resume)
        killed += hit
        check_never_partial(target, whole)
        partial += hit and target.exists() and files(target).keys() != whole.keys()
        chain = chain + 1 if hit else 5  # up to five kills a folder: the later ones hit runs that resume
        if chain >= 1 + attempt % 5 or killed == KILLS:
            result = run("convert", source, target, "--scale", 2, "--resume", "--quiet")
            assert result.returncode == 0, result.stderr
            assert files(target) == whole
            shutil.rmtree(target)
            chain = 0
    assert partial >= KILLS / 10  # or the moments missed what they were meant for


@pytest.mark.slow
def test_killed_at_random_a_single_file_is_whole_or_absent(tmp_path):
    source, target = tmp_path / "in.safetensors", tmp_path / "d" / "out.safetensors"
    rng = np.random.default_rng(SEED)
    save_file({f"{i}.weight": rng.standard_normal((256, 256, 3, 3), np.float32) for i in range(8)}, source)
    target.parent.mkdir()
    convert(source, tmp_path / "whole.safetensors", scale=2)
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "m").mkdir()
    end = kill_while_writing(
        tmp_path / "m", None, "convert", source, tmp_path / "m" / "out.safetensors", "--scale", 2
    )  # fmt: skip
    rng, interrupted = random.Random(SEED + 1), 0
    for _ in range(15):
        kill_while_writing(
            target.parent, rng.uniform(0, end), "convert", source, target, "--scale", 2, "--force"
        )  # fmt: skip
        interrupted += any(p.name.startswith(".") for p in target.parent.iterdir())
        assert not target.exists() or target.read_bytes() == whole
        target.unlink(missing_ok=True)
    assert interrupted > 2
    result = run("convert", source, target, "--scale", 2, "--resume")
    assert result.returncode == 0 and files(target.parent) == {"out.safetensors": whole}  # no leavings either


def interrupted(source, target, after=4):
    """A conversion that ends by Ctrl-C when `after` shards are there."""

    def stop(done, total):
        if len(list(target.glob("*.safetensors"))) >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, target, scale=2, progress=stop)
    assert len(list(target.glob("*.safetensors"))) == after and not (target / INDEX).exists()


@pytest.mark.parametrize("how", ["a byte", "shorter", "longer", "header", "replaced by the source", "removed"])
def test_resume_redoes_a_finished_shard_that_was_tampered_with_and_no_other(how, source, tmp_path):
    target = tmp_path / "out"
    convert(source, tmp_path / "whole", scale=2)
    interrupted(source, target)
    shard = target / "model-00002-of-00006.safetensors"
    data = bytearray(shard.read_bytes())
    if how == "a byte":
        data[-1] ^= 1
    elif how == "header":
        data[20] ^= 1
    elif how == "shorter":
        del data[-1]
    elif how == "longer":
        data.append(0)
    elif how == "removed":
        shard.unlink()
    else:
        data = bytearray((source / shard.name).read_bytes())
    if how != "removed":
        time.sleep(0.01)  # a clock of coarse ticks
        shard.write_bytes(data)
    report = convert(source, target, scale=2, resume=True)
    assert report.resumed == 3
    assert files(target) == files(tmp_path / "whole")


@pytest.mark.parametrize("change", ["scale", "dtype", "method", "source"])
def test_resume_takes_nothing_over_from_another_conversion(change, source, tmp_path):
    target = tmp_path / "out"
    interrupted(source, target)
    options = {"scale": 2} | {"scale": {"scale": 3}, "dtype": {"dtype": "fp16"}, "method": {"method": "linear"}}.get(
        change, {}
    )
    if change == "source":  # the same names and sizes, other values
        path = source / "model-00006-of-00006.safetensors"
        save_file({k: v + 1 for k, v in load_file(path).items()}, path, {"format": "pt"})
    assert convert(source, target, **options, resume=True).resumed == 0
    convert(source, tmp_path / "whole", **options)
    assert files(target) == files(tmp_path / "whole")


def test_resume_without_anything_to_resume_is_an_ordinary_conversion(source, tmp_path):
    assert convert(source, tmp_path / "out", scale=2, resume=True).resumed == 0
    before = files(tmp_path / "out")
    convert(source, tmp_path / "out", scale=2, resume=True)  # complete: redone or taken over, the same in the end
    assert files(tmp_path / "out") == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(thief):
    """Take all the room there is, beside whoever is writing at the same time."""
    with thief.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def big(tmp_path):
    path = tmp_path / "big.safetensors"
    save_file({f"{i}.weight": np.ones((128, 128, 3, 3), np.float32) for i in range(10)}, path)
    return path


def test_a_disk_too_small_is_noticed_before_anything_is_written(small_disk, tmp_path):
    path = big(tmp_path)
    for target in (small_disk / "out.safetensors", small_disk / "new" / "folder" / "out.safetensors"):
        result = run("convert", path, target, "--scale", 2)
        one_line(result, "16.4 MB needed, 12.6 MB free: make room")
        assert files(small_disk) == {}


def test_a_disk_that_fills_up_during_the_run_gives_one_line_and_leaves_nothing(small_disk, tmp_path):
    path = tmp_path / "in.safetensors"
    save_file({f"{i}.weight": np.ones((64, 64, 3, 3), np.float32) for i in range(20)}, path)  # 7.8 MiB when rescaled
    thief = small_disk / "thief"

    def steal(done, total):
        if not thief.exists():
            fill(thief)

    for target in (small_disk / "out.safetensors", small_disk / "new" / "out.safetensors"):
        with pytest.raises(RekernelError) as caught:
            convert(path, target, scale=2, progress=steal)
        assert "No space left on device; nothing was saved" in str(caught.value) and str(caught.value).isprintable()
        assert set(files(small_disk)) == {"thief"}
        thief.unlink()
    convert(path, small_disk / "out.safetensors", scale=2)  # with the room back, it works


def test_a_disk_that_fills_up_between_shards_leaves_whole_shards_to_resume_from(small_disk, tmp_path):
    source = sharded(tmp_path / "in", count=8, channels=64)  # 8 times 0.8 MiB
    target, thief = small_disk / "out", small_disk / "thief"

    def steal(done, total):
        if not thief.exists() and len(list(target.glob("*.safetensors"))) == 3:
            fill(thief)

    with pytest.raises(RekernelError, match=r"No space left on device|needed, .* free"):
        convert(source, target, scale=2, progress=steal)
    convert(source, tmp_path / "whole", scale=2)
    check_never_partial(target, files(tmp_path / "whole"))
    assert not [p for p in target.iterdir() if p.name.endswith("partial")] and not (target / INDEX).exists()
    thief.unlink()
    assert convert(source, target, scale=2, resume=True).resumed == 3
    assert files(target) == files(tmp_path / "whole")


def test_a_folder_without_the_right_to_write_gives_one_line(source, tmp_path):
    setpriv = shutil.which("setpriv")
    prefix = []
    if os.geteuid() == 0:
        if not setpriv:
            pytest.skip("root may write everywhere, and there is no setpriv to be somebody else")
        prefix = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
        if run("--version", prefix=prefix).returncode:
            pytest.skip("an unprivileged user cannot run this interpreter")
        for folder in (tmp_path, *tmp_path.parents[:3]):
            if not folder.stat().st_mode & 0o001 and folder != Path("/"):
                if folder.parent == Path("/tmp") or folder == tmp_path or "pytest" in folder.name:
                    folder.chmod(0o755)
                else:
                    pytest.skip(f"{folder} cannot be entered by an unprivileged user")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    single = tmp_path / "one.safetensors"
    save_file({"a.weight": np.ones((4, 4, 3, 3), np.float32)}, single)
    for path in (single, *source.iterdir()):
        path.chmod(0o644)  # upstream's writer makes them private
    for origin, target in ((single, locked / "out.safetensors"), (source, locked), (source, locked / "new")):
        one_line(run("convert", origin, target, "--scale", 2, prefix=prefix, cwd="/"), "Permission denied")
        assert files(locked) == {}


@pytest.mark.parametrize("how", ["truncated", "a value", "replaced", "removed", "grown"])
def test_a_source_that_changes_while_it_is_read_is_noticed(how, tmp_path):
    path, target = tmp_path / "in.safetensors", tmp_path / "out" / "out.safetensors"
    save_file({f"{i}.weight": np.ones((256, 256, 3, 3), np.float32) for i in range(8)}, path)
    done_once = []

    def meddle(done, total):
        if done_once:
            return
        done_once.append(done)
        if how == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        elif how == "removed":
            path.unlink()
        elif how == "replaced":
            path.with_name("new").write_bytes(path.read_bytes())
            path.with_name("new").replace(path)
        else:
            with path.open("r+b") as file:
                file.seek(-4 if how == "a value" else 0, os.SEEK_END)
                file.write(b"\0\0\0\1")

    with pytest.raises(RekernelError, match=r"changed since it was opened|cut short while|removed while") as caught:
        convert(path, target, scale=2, progress=meddle)
    assert str(caught.value).isprintable() and "in.safetensors" in str(caught.value)
    assert not target.parent.exists()
