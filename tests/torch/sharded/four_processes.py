"""Meshes of two axes: copies of shared parameters, and parameters that are shared out twice."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import rekernel.torch as rkt
from rekernel import RekernelError

from .networks import NETWORKS
from .two_processes import on_meta, same, shared


def linear() -> nn.Module:
    """Rows that four processes share out unevenly."""
    return nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Flatten(), nn.Linear(8 * 8 * 8, 10), nn.Linear(10, 7))


def copies_of_parts(folder: Path) -> list[bool]:
    network, path = NETWORKS["unet"], folder / "unet.safetensors"
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "parts"))
    one = rkt.load(network.build(), path)
    many = rkt.load(shared(rkt.load(on_meta(network), path, weights=False), network, mesh=mesh), path)
    rkt.save(many, folder / "unet.again.safetensors")
    return [same(many, one), (folder / "unet.again.safetensors").read_bytes() == path.read_bytes()]


def parts_of_parts(folder: Path) -> list[Any]:
    """Each linear layer shared out by tensor parallelism, and its parts by fully_shard."""
    path = folder / "linear.safetensors"
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    one = rkt.load(linear(), path)
    with torch.device("meta"):
        many = linear()
    rkt.load(many, path, weights=False)
    parallelize_module(many, mesh["tensor"], {"2": ColwiseParallel(), "3": RowwiseParallel()})
    fully_shard(many, mesh=mesh["data"])
    rkt.load(many, path)
    kinds = sorted({type(p).__name__ for p in many.get_parameter("2.weight").placements})
    return [same(many, one), kinds]


def placements(folder: Path) -> list[Any]:
    """Every pair of placements on a mesh of two axes, most of them uneven."""
    path, mesh, found = folder / "linear.safetensors", init_device_mesh("cpu", (2, 2)), []
    one = rkt.load(linear(), path)
    kinds = (Replicate(), Shard(0), Shard(1))
    for pair in [(a, b) for a in kinds for b in kinds]:
        with torch.device("meta"):
            many: Any = linear()
        rkt.load(many, path, weights=False)
        for layer in (many[0], many[2], many[3]):
            layer.weight = nn.Parameter(distribute_tensor(torch.zeros_like(layer.weight), mesh, pair))
        rkt.load(many, path)
        assert all(isinstance(layer.weight, DTensor) and not layer.weight.is_meta for layer in (many[0], many[3]))
        found.append([str(pair), same(many, one)])
    return found


def stages(folder: Path) -> list[Any]:
    """Two stages of a pipeline, each shared out between two processes: other files, and then other tensors."""
    stage = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "parts"))
    number = stage.get_coordinate()[0]
    found = []
    for name, width in ((f"stage{number}", 4), ("stage", 4 + number)):
        model = rkt.rescale(nn.Sequential(nn.Conv2d(3, width, 3)), 2, torch.zeros(1, 3, 16, 16))
        fully_shard(model, mesh=stage["parts"])
        try:
            rkt.save(model, folder / f"{name}.safetensors")
            found.append("saved")
        except RekernelError as error:
            found.append(str(error))
    return found


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = {f.__name__: f(folder) for f in (copies_of_parts, parts_of_parts, placements, stages)}
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
