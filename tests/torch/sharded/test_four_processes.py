"""Meshes of two axes: HSDP, FSDP with tensor parallelism, and every pair of placements."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
if not torch.distributed.is_available():
    pytest.skip("this build of torch has no processes", allow_module_level=True)

import rekernel.torch as rkt  # noqa: E402

from .four_processes import linear  # noqa: E402
from .launch import run  # noqa: E402
from .networks import NETWORKS  # noqa: E402


@pytest.mark.slow
def test_meshes_of_two_axes(tmp_path: Path) -> None:
    rkt.save(NETWORKS["unet"].rescaled(), tmp_path / "unet.safetensors")
    torch.manual_seed(0)
    rkt.save(rkt.rescale(linear(), 2, torch.zeros(1, 3, 16, 16)), tmp_path / "linear.safetensors")
    for found in run("four_processes", tmp_path, 4):
        assert found["copies_of_parts"] == [True, True]
        same, kinds = found["parts_of_parts"]
        assert same and kinds == ["Shard", "_StridedShard"]
        assert len(found["placements"]) == 9
        assert all(equal for _, equal in found["placements"]), found["placements"]
        assert all("process 2 saves" in said and "nothing was saved" in said for said in found["stages"])
    assert not list(tmp_path.glob("stage*"))
