"""Train a small class-conditional UNet to predict noise, and write it as a folder that diffusers loads.

Scope: the network, the noise, the loop with its checkpoints, and the folder. Not here: pictures and measurements (see
`train` in examples/glyph_diffusion and in examples/fashion_diffusion, which import this file).
"""

import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor
from torch.nn.functional import mse_loss

CLASSES = 10
NULL_CLASS = CLASSES  # the label that means "any class"
UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "num_class_embeds": CLASSES + 1,
    "block_out_channels": (32, 64, 96),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 32,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
NOISE: dict[str, Any] = {  # the signal-to-noise ratio of t = 999 is 4.0e-5
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}
SAMPLING: dict[str, Any] = {"timestep_spacing": "leading", "clip_sample": True, "set_alpha_to_one": True}
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
REPORT_EVERY = 250  # steps between two lines of progress, each with a checkpoint


def train(
    images: Tensor, labels: Tensor, recipe: Mapping[str, Any], data: Mapping[str, Any], checkpoint: Path
) -> dict[str, Any]:
    """Predict the noise in `images`; go on from `checkpoint` where it has the same settings.

    Parameters
    ----------
    images, labels : (N, 1, 16, 16) float32 in [-1, 1], (N,) int64
    recipe : mapping
        'steps', 'batch', 'lr', 'warmup' (steps of linear rise), 'flat' (share of the steps after which the rate
        falls), 'weight_decay', 'clip' (norm of the gradient), 'label_dropout', 'ema', 'autocast', 'seed'.
    data : mapping
        How the pictures were made; only compared with what the checkpoint was trained with.

    Returns
    -------
    state : dict
        'step', 'seconds', 'losses' (a mean for every `REPORT_EVERY` steps) and 'ema', the averaged weights.
    """
    torch.manual_seed(recipe["seed"])
    unet = UNet2DModel(**UNET).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=recipe["lr"], weight_decay=recipe["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe))
    scheduler = DDIMScheduler(**NOISE)
    ema = {name: weight.detach().clone() for name, weight in unet.state_dict().items()}
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    settings = json.dumps([data, UNET, NOISE, recipe])
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        if stored["settings"] == settings:
            unet.load_state_dict(stored["unet"])
            optimizer.load_state_dict(stored["optimizer"])
            schedule.load_state_dict(stored["schedule"])
            torch.set_rng_state(stored["rng"])
            ema, state = stored["ema"], {key: stored[key] for key in state}
            print(f"continued from step {state['step']}", flush=True)

    while state["step"] < recipe["steps"]:
        start, total = time.perf_counter(), 0.0
        for _ in range(REPORT_EVERY):
            loss = loss_of(unet, scheduler, images, labels, recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), recipe["clip"])
            optimizer.step()
            schedule.step()
            state["step"] += 1
            average(ema, unet.state_dict(), min(recipe["ema"], state["step"] / (state["step"] + 10)))
            total += loss.item()
        state["seconds"] += time.perf_counter() - start
        state["losses"].append(round(total / REPORT_EVERY, 5))
        print(f"step {state['step']}: loss {state['losses'][-1]}, {state['seconds']:.0f} s", flush=True)
        resumable = {"unet": unet.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        aside = checkpoint.with_suffix(".part")
        torch.save({**state, **resumable, "ema": ema, "rng": torch.get_rng_state(), "settings": settings}, aside)
        aside.replace(checkpoint)
    return {**state, "ema": ema}


def rate(step: int, recipe: Mapping[str, Any]) -> float:
    """Share of the top learning rate: linear rise, flat, half a cosine down to 0 at the last step."""
    falling = (step / recipe["steps"] - recipe["flat"]) / (1 - recipe["flat"])
    return min((step + 1) / recipe["warmup"], 1.0) * (1 + math.cos(math.pi * min(max(falling, 0.0), 1.0))) / 2


def loss_of(
    unet: UNet2DModel, scheduler: DDIMScheduler, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]
) -> Tensor:
    """Mean squared error of the predicted noise for one random batch; its times are spread evenly over the schedule."""
    batch = recipe["batch"]
    index = torch.randint(len(images), (batch,))
    x = images[index]
    dropped = torch.rand(batch) < recipe["label_dropout"]
    asked = labels[index].masked_fill(dropped, NULL_CLASS)
    t = ((torch.arange(batch) + torch.rand(batch)) / batch * NOISE["num_train_timesteps"]).long()
    noise = torch.randn_like(x)
    with torch.autocast("cpu", getattr(torch, recipe["autocast"])):
        predicted = unet(scheduler.add_noise(x, noise, t), t, class_labels=asked).sample
    return mse_loss(predicted.float(), noise)


@torch.no_grad()
def average(ema: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the exponential moving average towards `weights`, in place."""
    for name, mean in ema.items():
        mean.lerp_(weights[name], 1 - decay)


def write_folder(weights: Mapping[str, Tensor], folder: Path, pipeline: str) -> None:
    """The pipeline folder, weights in float16; `pipeline.py` with the class `pipeline` is in it already."""
    unet = UNet2DModel(**UNET)
    unet.load_state_dict(weights)
    unet.half().save_pretrained(folder / "unet")
    (folder / "unet" / WEIGHTS_NAME).chmod(0o644)  # safetensors leaves it readable by its owner alone
    scheduler = DDIMScheduler(**NOISE, **SAMPLING)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": ["pipeline", pipeline],
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_results(
    state: Mapping[str, Any], folder: Path, quality: Any, recipe: Mapping[str, Any], data: Mapping[str, Any],
    libraries: tuple[ModuleType, ...] = (),
) -> None:  # fmt: skip
    """results.json beside the pipeline: settings, the weights' digest, `quality`, seconds, losses, versions."""
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, np, *libraries)}
    results = {
        "settings": {"data": data, "unet": UNET, "noise": NOISE, "sampling": SAMPLING, "recipe": recipe},
        "sha256": hashlib.sha256((folder / "unet" / WEIGHTS_NAME).read_bytes()).hexdigest(),
        "quality": quality,
        "seconds_training": round(state["seconds"]),
        "losses": {"every": REPORT_EVERY, "mean": state["losses"]},
        "versions": {"python": platform.python_version(), **versions},
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
