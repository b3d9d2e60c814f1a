"""Safetensors files that hold headers alone."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
METHODS = (
    "optimal", "optimal-filter", "dilate", "nearest", "linear", "cubic", "bicubic", "lanczos3", "area", "pinv-nearest",
    "pinv-linear", "pinv-cubic",
)  # fmt: skip
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}


class Files:
    """Headers of safetensors files in a folder; the data behind each is a hole."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def file(self, shapes: Shapes, dtype: str = "F32", metadata: Mapping[str, str] | None = None, **other: str) -> Path:
        """A file with tensors of these shapes; `other` gives the dtype of single ones."""
        self.count += 1
        return self.at(self.folder / f"{self.count}.safetensors", shapes, dtype, metadata, other)

    @staticmethod
    def at(
        path: Path, shapes: Shapes, dtype: str = "F32", metadata: Mapping[str, str] | None = None,
        other: Mapping[str, str] | None = None,
    ) -> Path:  # fmt: skip
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for name, shape in shapes.items():
            start, kind = end, (other or {}).get(name, dtype)
            cells = 1
            for n in shape:
                cells *= n
            end += cells * SIZES[kind]
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        os.truncate(path, 8 + len(text) + end)
        return path
