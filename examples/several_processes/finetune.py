"""Fine-tune a rescaled network with accelerate, in one process or in several.

    accelerate launch --num_processes 2 finetune.py net-2x.safetensors tuned.safetensors
    ACCELERATE_USE_CPU=yes torchrun --nproc-per-node 2 finetune.py net-2x.safetensors tuned.safetensors

The second line is for CPUs, where `accelerate launch` starts one process alone. `--shard` shares the parameters out
(FSDP2): then each process reads its own part of the file, and holds no more. The pictures are noise: put yours in the
place of `pictures`. All processes together see the batches of one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import rekernel.torch as rkt

BATCH, STEPS = 8, 3


def network() -> nn.Module:
    """A classifier for 16x16 pixels. It has group norms: batch norms would see the batch of one process alone."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def pictures() -> TensorDataset:
    """Noise of the new size, 32x32 pixels, and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH * STEPS, 3, 32, 32, generator=generator)
    return TensorDataset(images, torch.randint(5, (BATCH * STEPS,), generator=generator))


def main() -> nn.Module:
    """Load, train, save; returns what was trained, as this process has it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what rekernel convert or rkt.save wrote")
    parser.add_argument("target", type=Path)
    parser.add_argument("--shard", action="store_true")
    options = parser.parse_args()

    accelerator = Accelerator()
    if options.shard:
        with torch.device("meta"):
            model = network()
        rkt.load(model, options.file, weights=False)  # the layers of the new size, still without values
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        fully_shard(model, mesh=mesh)  # in a large network, fully_shard(block, mesh=mesh) for each block first
        rkt.load(model, options.file)  # each process its part
    else:
        model = accelerator.prepare(rkt.load(network(), options.file))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = DataLoader(pictures(), batch_size=BATCH // accelerator.num_processes)
    optimizer, data = accelerator.prepare(optimizer, data)

    model.train()
    for images, labels in data:
        loss = nn.functional.cross_entropy(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    if options.shard or accelerator.is_main_process:  # shared parameters are saved by all processes together
        rkt.save(model, options.target, force=True)
    accelerator.wait_for_everyone()
    return model


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
