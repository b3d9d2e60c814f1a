"""Convert checkpoints of up to 60 GB in one process, in several, and measure time and memory.

    python benchmarks/speed/sharded.py --folder /path/with/35GB

The sources have convolutions and larger linear layers, in shards of 2.5 GB. Those of up to 10 GB hold random numbers,
and their time is compared with that of `cp` of the result, in the same run. The one of 60 GB is sparse: its
zeros take no place on the disk, so time says little, but every byte is read and hashed, and every kernel computed. Peak
memory is the sum over all processes, sampled from /proc. Writes results/sharded.json.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import machine
import ml_dtypes
import numpy as np
import psutil

from rekernel.checkpoint.header import build_header

HERE = Path(__file__).parent
SHARD = 2_500_000_000
SPARSE_FROM = 11
LINEAR, KERNEL = (8192, 8192), (1280, 1280, 3, 3)
# (gigabytes of the source, processes): 0 is rekernel as it runs by itself, on threads.
CASES = [(5, 0), (10, 0), (10, 1), (10, 2), (60, 0)]


def build(folder: Path, gigabytes: int) -> int:
    """Write a checkpoint in shards; return their number."""
    noise = (np.random.default_rng(0).standard_normal(1 << 24) * 0.02).astype(ml_dtypes.bfloat16).view(np.uint8)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count, weight_map = gigabytes * 10**9 // SHARD, {}
    for i in range(count):
        name, tensors, nbytes = f"model-{i + 1:05d}-of-{count:05d}.safetensors", [], 0
        while nbytes < SHARD:
            kernel = len(tensors) % 8 == 7  # a quarter of the linear layers' bytes in eight: few tensors change
            shape = KERNEL if kernel else LINEAR
            label = f"block{i}.{len(tensors)}.{'conv' if kernel else 'linear'}.weight"
            tensors.append((label, "BF16", shape))
            nbytes += 2 * (14_745_600 if kernel else 67_108_864)
        header, infos = build_header(tensors, {"format": "pt"})
        size = max(info.end for info in infos.values())
        with (folder / name).open("wb") as file:
            file.write(header)
            for start in range(0, size if gigabytes < SPARSE_FROM else 0, noise.nbytes):
                file.write(noise[: size - start])
            file.truncate(len(header) + size)
        weight_map |= dict.fromkeys((label for label, *_ in tensors), name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return count


def resident(process: psutil.Process) -> int:
    """Bytes resident in a process and its children."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def timed(command: list[str], result: Path) -> tuple[float, int]:
    """Seconds until `result` is on the disk, and the most bytes resident at once."""
    begin, peak = time.perf_counter(), 0
    process = psutil.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, resident(process))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{command} failed with {process.returncode}")
    for file in result.iterdir():
        subprocess.run(["sync", file], check=True)
    return time.perf_counter() - begin, peak


def measure(source: Path, folder: Path, jobs: int, sparse: bool) -> dict[str, float]:
    result, copy = folder / "result", folder / "copy"
    for old in (result, copy):
        shutil.rmtree(old, ignore_errors=True)
    command = [sys.executable, "-m", "rekernel", "convert", "-q", str(source), str(result), "--scale", "2"]
    seconds, peak = timed([*command, "--jobs", str(jobs)] if jobs else command, result)
    nbytes = sum(file.stat().st_size for file in result.iterdir())
    copied = 0.0
    if not sparse:
        copied, _ = timed(["cp", "-r", str(result), str(copy)], copy)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(result)
    return {"seconds": seconds, "peak_mb": peak / 1e6, "result_gb": nbytes / 1e9, "cp_seconds": copied}


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where there are 35 GB free")
    asked = parser.parse_args()
    setting = {
        "cpu": asked.machine,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    rows, built = [], 0
    for gigabytes, jobs in CASES:
        if built != gigabytes:
            shards, built = build(asked.folder / "source", gigabytes), gigabytes
        sparse = gigabytes >= SPARSE_FROM
        measured = measure(asked.folder / "source", asked.folder, jobs, sparse)
        rows.append({"gigabytes": gigabytes, "shards": shards, "jobs": jobs, "sparse": sparse, **measured})
        ratio = "sparse" if sparse else f"{measured['seconds'] / measured['cp_seconds']:.2f} x cp"
        print(f"{gigabytes:3d} GB in {shards:2d} files, {jobs} processes: {ratio}, peak {measured['peak_mb']:.0f} MB")
        machine.write("sharded", {"setting": setting, "rows": rows}, asked.results)
    shutil.rmtree(asked.folder / "source")


if __name__ == "__main__":
    main()
