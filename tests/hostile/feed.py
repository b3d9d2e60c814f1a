"""Feed inputs that broke rekernel once to every entry point that reads them, in a process of bounded memory.

`python -m tests.hostile.feed MEGABYTES READER ...` prints a line of JSON for each input in `inputs/READER`: its name,
and what is wrong, or an empty text.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

import rekernel as rk

from ..fuzz.readers import cleared, read_everywhere, shown, tried

INPUTS = Path(__file__).parent / "inputs"


def header(raw: bytes, folder: Path) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(raw)
    read_everywhere(path, folder / "out.safetensors")


def recipe(raw: bytes, folder: Path) -> None:
    text = raw.decode("utf-8", "replace")
    header(save({"a.weight": np.ones((4, 3, 3, 3), np.float32)}, {"rekernel": text}), folder)
    tried(lambda: rk.Recipe.from_json(text))


def plan(raw: bytes, folder: Path) -> None:
    read = tried(lambda: rk.Plan.from_json(raw.decode("utf-8", "surrogateescape")))
    if read is None:
        return
    shown(read)
    source, out = folder / "x.safetensors", folder / "out.safetensors"
    tensors = {change.name: np.ones(change.shape, np.float32) for change in read.changes}
    source.write_bytes(save(tensors or {"a": np.ones(1, np.float32)}))
    tried(lambda: rk.convert(source, out, plan=read, force=True))
    cleared(out)


def lora(raw: bytes, folder: Path) -> None:
    shapes = {name: shape for name, shape in json.loads(raw).items() if isinstance(shape, list)}
    whole = {n: s for n, s in shapes.items() if all(type(size) is int for size in s)}
    header(save({name: np.ones(shape, np.float16) for name, shape in whole.items()}), folder)
    entries = {n: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for n, shape in shapes.items()}
    text = json.dumps(entries).encode()
    header(len(text).to_bytes(8, "little") + text, folder)


def onnx(raw: bytes, folder: Path) -> None:
    path = folder / "x.onnx"
    path.write_bytes(raw)
    read_everywhere(path, folder / "out.onnx")


def pickle(raw: bytes, folder: Path) -> None:
    path = folder / "x.pt"
    path.write_bytes(raw)
    read_everywhere(path, folder / "out.safetensors", allow_pickle=True)


def guidance(raw: bytes, folder: Path) -> None:
    from rekernel.diffusion.pipelines.record import Recorded, read_record

    (folder / "config.json").write_bytes(b'{"_class_name": "UNet2DModel", "_rekernel": ' + raw + b"}")
    for read in (lambda: read_record(folder), lambda: Recorded.from_entry(json.loads(raw), "config.json")):
        found = tried(read)
        if found is not None:
            tried(lambda found=found: (found.new_size, found.parts(), found.to_entry()))


def cli(raw: bytes, folder: Path) -> None:
    from ..fuzz.targets_others import options

    options(raw, folder)  # the bytes as they were found, which choose options and values
    for number in range(40):
        options(bytes([number % 3, number % 2, 0, number, 1 + number]) + raw, folder)


def main() -> None:
    """Feed the inputs of the readers that the command line names."""
    most = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for reader in sys.argv[2:]:
        feed: Callable[[bytes, Path], None] = globals()[reader]
        for path in sorted((INPUTS / reader).iterdir()):
            wrong = ""
            with tempfile.TemporaryDirectory() as folder:
                try:
                    feed(path.read_bytes(), Path(folder))
                except Exception:
                    wrong = traceback.format_exc()
            sys.stdout.write(json.dumps({"input": f"{reader}/{path.name}", "wrong": wrong}) + "\n")


if __name__ == "__main__":
    main()
