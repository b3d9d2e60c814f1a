"""Fine-tuning from a rescaled network under accelerate: two processes end where one ends with the joined batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
if not torch.distributed.is_available():
    pytest.skip("this build of torch has no processes", allow_module_level=True)

from safetensors.torch import load_file  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel_cli.user_code import import_file  # noqa: E402

from .finetune_processes import SCRIPT  # noqa: E402
from .launch import ROOT, run, surroundings  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example() -> Any:
    return import_file(SCRIPT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, example: Any) -> Path:
    """With the rescaled network, and that network after three steps in one process."""
    made = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(0)
    rkt.save(rkt.rescale(example.network(), 2, torch.zeros(1, 3, 16, 16)), made / "in.safetensors")
    run("finetune_processes", made, 1)
    return made


@pytest.mark.parametrize(
    ("options", "kind", "parts"), [([], "DistributedDataParallel", 0), (["--shard"], "FSDPSequential", 8)]
)
def test_two_processes_end_where_one_does(
    folder: Path, example: Any, options: list[str], kind: str, parts: int
) -> None:
    first, second = run("finetune_processes", folder, 2, *options)
    assert first == second and first[1:] == [kind, parts]
    target = folder / f"tuned-2{''.join(options)}.safetensors"
    start, one, two = (load_file(folder / name) for name in ("in.safetensors", "tuned-1.safetensors", target.name))
    assert start.keys() == one.keys() == two.keys()
    for name, value in one.items():
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
    again = rkt.load(example.network(), target)
    assert all(torch.equal(value, two[name]) for name, value in again.state_dict().items())


def test_the_script_runs_as_it_says(folder: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT),
        str(folder / "in.safetensors"), str(folder / "torchrun.safetensors"),
    ]  # fmt: skip
    ran = subprocess.run(command, env=surroundings(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    written, other = (load_file(folder / name) for name in ("torchrun.safetensors", "tuned-1.safetensors"))
    for name, value in other.items():
        torch.testing.assert_close(written[name], value, rtol=0, atol=1e-6)
