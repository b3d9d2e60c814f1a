"""Run the example for fine-tuning as it is, and write the digest of the weights that this process then has."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from rekernel.torch.wrapped import unwrapped
from rekernel_cli.user_code import import_file

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "several_processes" / "finetune.py"


def main(folder: Path, options: list[str]) -> None:
    example: Any = import_file(SCRIPT)
    name = f"tuned-{os.environ['WORLD_SIZE']}{''.join(options)}.safetensors"
    sys.argv = [str(SCRIPT), str(folder / "in.safetensors"), str(folder / name), *options]
    model = example.main()
    digest, parts = hashlib.sha256(), 0
    for value in unwrapped(model).state_dict().values():
        parts += isinstance(value, DTensor)
        digest.update((value.full_tensor() if isinstance(value, DTensor) else value).numpy().tobytes())
    kind = type(model).__name__
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps([digest.hexdigest(), kind, parts]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
