"""Convert random checkpoints and compare each result with `soak_oracle`."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import soak_oracle as oracle

import rekernel as rk

METHODS = ("dilate", "nearest", "linear", "cubic", "lanczos3", "area", "optimal")
FLOATS = ("F64", "F32", "F16", "BF16")
OTHERS = ("I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3")
WORDS = ("conv", "layer", "down", "up", "näh", "模型", "blocks", "to_out", "a b", "weight_", "x-y", "0")


def name(rng: random.Random) -> str:
    return ".".join([*(rng.choice(WORDS) for _ in range(rng.randint(1, 4))), str(rng.randint(0, 999)), "weight"])


def tensor(rng: random.Random, numbers: np.random.Generator, whole: bool) -> tuple[str, tuple[int, ...], bytes]:
    if rng.random() < 0.35:
        shape = tuple(rng.choice((0, 1, 3, 7)) for _ in range(rng.randint(0, 2)))
    else:
        dims = rng.randint(1, 3)
        sizes = [rng.choice((1, 2, 3, 3, 3, 4, 5, 7)) for _ in range(dims)]
        shape = (rng.randint(1, 8), rng.randint(1, 6), *sizes)
    dtype = rng.choice(FLOATS) if len(shape) > 2 else rng.choice((*FLOATS, *OTHERS))
    count = int(np.prod(shape, dtype=np.int64))
    x = numbers.normal(size=count) * 10.0 ** rng.randint(-3, 2)
    if dtype == "BF16":
        data = (oracle.rounded(x, "BF16").astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    elif dtype in FLOATS:
        data = x.astype(oracle._NUMPY[dtype]).tobytes()
    else:
        data = numbers.integers(0, 2, count * np.dtype(oracle._NUMPY[dtype]).itemsize, np.uint8).tobytes()
    return dtype, shape, data


def write(path: Path, tensors: dict, metadata: dict[str, str]) -> None:
    header, position, parts = {}, 0, []
    if metadata:
        header["__metadata__"] = metadata
    for key, (dtype, shape, data) in tensors.items():
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(data)]}
        position += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def source(rng: random.Random, numbers: np.random.Generator, folder: Path) -> tuple[Path, dict]:
    """A file, or a folder of shards, and its tensors."""
    tensors: dict = {}
    for _ in range(rng.randint(1, 8)):
        tensors[name(rng)] = tensor(rng, numbers, True)
    metadata = {"format": "pt", "note": "ü\n"} if rng.random() < 0.7 else {}
    shards = rng.choice((0, 0, 1, 2, 3))
    if not shards:
        write(folder / "in.safetensors", tensors, metadata)
        return folder / "in.safetensors", tensors
    root = folder / "in"
    root.mkdir()
    (root / "config.json").write_text("{}")
    if shards == 1:
        write(root / "model.safetensors", tensors, metadata)
        return root, tensors
    homes = {}
    names = list(tensors)
    for i in range(shards):
        home = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        chosen = names[i::shards]
        if chosen:
            write(root / home, {n: tensors[n] for n in chosen}, metadata)
            homes |= dict.fromkeys(chosen, home)
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return root, tensors


def written(target: Path) -> dict:
    found: dict = {}
    for path in [target] if target.is_file() else sorted(target.glob("*.safetensors")):
        found |= oracle.read(path)[0]
    return found


def one(seed: int, folder: Path, counts: Counter) -> None:
    """One conversion; raises AssertionError where the result is not what the oracle computes."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    path, tensors = source(rng, numbers, folder)
    before = snapshot(folder)
    scale = rng.choice((2, 3, 4, 1.5, 2.5))
    options: dict = {"method": rng.choice(METHODS), "gain": rng.choice(("dc", "dc", "dc", "ratio", "none"))}
    options["mode"] = rng.choice(("supersample", "supersample", "auto"))
    if rng.random() < 0.2:
        options["preset"] = "all"
    elif rng.random() < 0.3:
        options["include"] = [f"*{rng.choice('0123456789')}.weight", "*"][rng.randint(0, 1) :]
    if rng.random() < 0.25:
        options["dtype"] = rng.choice(FLOATS)
    if rng.random() < 0.3:
        options["max_shard_size"] = rng.choice((1, 500, 5000, 10**9))
    target = folder / ("out.safetensors" if path.is_file() and "max_shard_size" not in options else "out")
    try:
        report = rk.convert(path, target, scale=scale, **options)
    except rk.RekernelError as error:
        assert str(error).isprintable()
        counts["refused"] += 1
        assert snapshot(folder) == before, "a refused conversion left something"
        return
    again = rng.random()
    if again < 0.2:
        rk.convert(path, target, scale=scale, **options, force=True)
    elif again < 0.3:
        rk.convert(path, target, scale=scale, **options, resume=True)
    check(seed, tensors, target, report, options.get("dtype"), counts)
    after = snapshot(folder)
    assert {k: v for k, v in after.items() if k in before} == before, "the source changed"
    new = {Path(k).name for k in after.keys() - before.keys()}
    assert not [k for k in new if "rekernel" in k], new
    counts["converted"] += 1


def check(seed: int, tensors: dict, target: Path, report: rk.Report, cast: str | None, counts: Counter) -> None:
    found = written(target)
    assert found.keys() == tensors.keys()
    changes = {c.name: c for c in report.plans[""].changes}
    for key, (dtype, shape, data) in tensors.items():
        change = changes[key]
        wanted_dtype = cast if cast and dtype in FLOATS else dtype
        assert (found[key][0], found[key][1]) == (wanted_dtype, change.new_shape), (seed, key)
        if change.kept and wanted_dtype == dtype:
            assert found[key][2] == data, (seed, key)
            counts["kept"] += 1
            continue
        got = oracle.values(*found[key])
        x = oracle.values(dtype, shape, data)
        if change.kept:
            assert np.array_equal(got, oracle.rounded(x, wanted_dtype)), (seed, key, "cast")
            counts["cast"] += 1
            continue
        result = oracle.expected(change, x)
        if result is None:
            counts["designed under a limit, or on a grid"] += 1
            continue
        error = oracle.difference(got, *result, dtype, wanted_dtype)
        counts["compared"] += 1
        counts["worst error, thousandths of the bound"] = max(
            counts["worst error, thousandths of the bound"], int(1000 * error)
        )
        assert error <= 1, (seed, key, change.operators, error)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(count: int, seed: int, folder: Path) -> Counter:
    """`count` conversions with the seeds from `seed` on, each in a folder of its own that is removed."""
    counts: Counter = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(count):
            place = folder / str(i)
            place.mkdir()
            try:
                one(seed + i, place, counts)
            except Exception as error:
                raise AssertionError(f"conversion with seed {seed + i}: {error!r}") from error
            shutil.rmtree(place)
    return counts
