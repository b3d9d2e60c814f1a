"""Time conversions on ext4, btrfs and xfs, and count the bytes that reach the disk and those shared with the source.

    sudo python benchmarks/speed/filesystems.py --folder /path/with/20GB

btrfs and xfs let two files share blocks of the disk (reflink). The kernel shares a range that begins at a whole block
of 4096 bytes in both files. rekernel brings the data of a result to the source's offset modulo 4096 by spaces at the
end of the header, and copies the blocks that lie whole inside a range apart from its ends. The rows `without spaces`
leave the header as short as it can be.

The checkpoint has the shapes of Stable Diffusion 1.5's UNet. Every file system is made on a loop device, which needs
root. Written bytes are those that the loop device counted, until the result is synced. Shared bytes are those whose
blocks `filefrag` calls shared. Stored in results/filesystems.json beside those of other machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import child
import convert
import machine

from rekernel.checkpoint.header import Header, read_header

BLOCK, SIZE = 4096, 12 << 30
MAKERS = {
    "ext4": ["mkfs.ext4", "-q"],
    "btrfs": ["mkfs.btrfs", "-q", "--metadata", "single"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
}
CASES: dict[str, dict[str, Any]] = {"default": {}, "one tensor changes": {"include": ["conv_out"]}}
WITHOUT_SPACES = """
from rekernel.conversion import shared_blocks
shared_blocks._LEAST = 1 << 62
"""


def run(*command: str | Path) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def mounted(kind: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """A new file system in a file of `folder`: where it is mounted, and its loop device. Nothing of it stays behind."""
    with contextlib.ExitStack() as undo:
        image, place = folder / f"{kind}.image", folder / f"{kind}.mounted"
        undo.callback(image.unlink, missing_ok=True)
        with image.open("wb") as file:
            file.truncate(SIZE)
        device = run("losetup", "--find", "--show", image)
        undo.callback(run, "losetup", "--detach", device)
        run(*MAKERS[kind], device)
        place.mkdir(exist_ok=True)
        undo.callback(place.rmdir)
        run("mount", device, place)
        undo.callback(run, "umount", place)
        yield place, device


def written(device: str) -> int:
    """Bytes written to a device since it was made, everything synced."""
    run("sync")
    return 512 * int(Path("/sys/block", Path(device).name, "stat").read_text().split()[6])


def shared(path: Path) -> int:
    """Bytes of a file in blocks of the disk that another file has too."""
    lines = [line.split(":") for line in run("filefrag", "-v", f"-b{BLOCK}", path).splitlines()]
    return BLOCK * sum(int(line[3]) for line in lines if line[0].strip().isdigit() and "shared" in line[-1])


def header(path: Path) -> Header:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_header(fd, str(path))
    finally:
        os.close(fd)


def offsets(source: Path, result: Path) -> dict[str, int]:
    """Bytes of kept tensors; of these, at the same offset modulo 4096 in both files; of these, at whole blocks."""
    old, new = header(source), header(result)
    count = {"kept": 0, "congruent": 0, "at_blocks": 0}
    for name, info in old.tensors.items():
        if new.tensors[name].nbytes == info.nbytes:
            a, b = old.data_start + info.start, new.data_start + new.tensors[name].start
            count["kept"] += info.nbytes
            count["congruent"] += info.nbytes * ((a - b) % BLOCK == 0)
            count["at_blocks"] += info.nbytes * (a % BLOCK == b % BLOCK == 0)
    return count


def measure(case: dict[str, Any], without: bool, source: Path, device: str) -> dict[str, float]:
    """One conversion, and a copy of its result by `cp` that shares nothing."""
    result, other = source.with_name("result.safetensors"), source.with_name("other.safetensors")
    script = WITHOUT_SPACES * without + convert.OURS
    convert.warm(source)
    before = written(device)
    seconds, _ = child.measured([sys.executable, "-c", script, str(source), str(result), json.dumps(case)], str(result))
    row: dict[str, float] = {"ours": seconds, "written": written(device) - before, "bytes": result.stat().st_size}
    row |= {"shared": shared(result), **offsets(source, result)}
    if not without:
        convert.warm(result)
        row["cp"], _ = child.measured(["cp", "--reflink=never", str(result), str(other)], str(other))
        other.unlink()
    result.unlink()
    return row


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where there are 20 GB free")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if sys.platform != "linux" or os.geteuid():
        sys.exit("skipped: a file system on a loop device needs Linux and root")
    origin = convert.source_of("sd15", folder)
    rows: dict[str, dict[str, float]] = {}
    print(f"SD1.5's UNet, {origin.stat().st_size / 1e9:.2f} GB float16, 2x ({asked.machine})")
    heads = ("output GB", "ours s", "cp s", "written GB", "shared GB", "kept GB", "congruent", "at blocks")
    print(" " * 40 + "".join(f"{head:>11s}" for head in heads))
    for kind, maker in MAKERS.items():
        if not shutil.which(maker[0]):
            print(f"{kind}: skipped, {maker[0]} is not installed")
            continue
        with mounted(kind, folder) as (place, device):
            source = place / "source.safetensors"
            run("cp", origin, source)
            for name, case in CASES.items():
                for without in (False, True):
                    label = f"{kind}, {name}{', without spaces' * without}"
                    rows[label] = r = measure(case, without, source, device)
                    cells = (r["ours"], r.get("cp", float("nan")), r["written"] / 1e9, r["shared"] / 1e9)
                    ends = (r["kept"] / 1e9, r["congruent"] / 1e9, r["at_blocks"] / 1e9)
                    numbers = (r["bytes"] / 1e9, *cells, *ends)
                    print(f"{label:40s}" + "".join(f"{x:11.2f}" for x in numbers), flush=True)
    setting = machine.setting(kernel=os.uname().release, block=BLOCK)
    machine.store("filesystems", setting, rows, machine=asked.machine, folder=asked.results)


if __name__ == "__main__":
    main()
