"""Train the example diffusion model at 16x16 and write the pipeline folder and what was measured.

    python examples/glyph_diffusion/train.py

Writes model_index.json, unet/, scheduler/, samples.png and results.json beside this file. Images and checkpoints go to
`rekernel-glyph-diffusion` in the system's temporary folder, so that an interrupted run continues where it was.
No image larger than 16x16 is ever shown to the network.
"""

import hashlib
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "glyphs"))

import diffusers
import matplotlib
import numpy as np
import PIL
import torch
from diffusers import DDIMScheduler, UNet2DModel
from measure import draw, measured
from render import CLASSES, area_reduce, render_glyphs
from torch import Tensor
from torch.nn.functional import mse_loss

HERE = Path(__file__).resolve().parent
SCRATCH = Path(tempfile.gettempdir()) / "rekernel-glyph-diffusion"
NULL_CLASS = len(CLASSES)  # the label that means "any digit"
DATA = {"images": 30_000, "seed": 11, "rendered_size": 64, "size": 16}
UNET: dict[str, Any] = {
    "sample_size": DATA["size"],
    "in_channels": 1,
    "out_channels": 1,
    "num_class_embeds": NULL_CLASS + 1,
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
RECIPE: dict[str, Any] = {
    "steps": 8_000,
    "batch": 64,
    "lr": 1e-3,
    "warmup": 300,  # steps of linear rise
    "flat": 0.5625,  # share of the steps after which the rate falls along half a cosine
    "weight_decay": 0.01,
    "clip": 1.0,  # norm of the gradient
    "label_dropout": 0.1,
    "ema": 0.999,
    "autocast": "bfloat16",
    "seed": 0,
}
REPORT_EVERY = 250  # steps between two lines of progress, each with a checkpoint


def main() -> None:
    """Render or read the images, train from the last checkpoint on, write, read back, measure."""
    torch.set_num_threads(1)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(SCRATCH / "images.npz")
    state = train(images, labels, SCRATCH / "checkpoint.pt")
    write_folder(state["ema"], HERE)
    draw(HERE / "samples.png")
    results = {
        "settings": {"data": DATA, "unet": UNET, "noise": NOISE, "sampling": SAMPLING, "recipe": RECIPE},
        "sha256": hashlib.sha256((HERE / "unet" / WEIGHTS_NAME).read_bytes()).hexdigest(),
        "quality": {"classifier": "examples/glyphs/cnn.safetensors", "rows": measured()},
        "seconds_training": round(state["seconds"]),
        "losses": {"every": REPORT_EVERY, "mean": state["losses"]},
        "versions": _versions(),
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def load_images(cache: Path) -> tuple[Tensor, Tensor]:
    """(N, 1, 16, 16) float32 in [-1, 1] and (N,) int64: from `cache` where it holds these settings, else drawn."""
    if cache.exists():
        with np.load(cache) as stored:
            if stored["settings"] == json.dumps(DATA):
                return torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"])
    start = time.perf_counter()
    drawn, labels = render_glyphs(DATA["images"], DATA["seed"], DATA["rendered_size"])
    images = 2 * area_reduce(drawn, DATA["rendered_size"] // DATA["size"])[:, None] - 1
    np.savez(cache, images=images, labels=labels, settings=json.dumps(DATA))
    print(f"{len(images)} images rendered in {time.perf_counter() - start:.0f} s", flush=True)
    return torch.from_numpy(images), torch.from_numpy(labels)


def train(images: Tensor, labels: Tensor, checkpoint: Path) -> dict[str, Any]:
    """Predict the noise in `images`; the state after the last step, with the averaged weights under 'ema'."""
    torch.manual_seed(RECIPE["seed"])
    unet = UNet2DModel(**UNET).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RECIPE["lr"], weight_decay=RECIPE["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    scheduler = DDIMScheduler(**NOISE)
    ema = {name: weight.detach().clone() for name, weight in unet.state_dict().items()}
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        if stored["settings"] == _settings():
            unet.load_state_dict(stored["unet"])
            optimizer.load_state_dict(stored["optimizer"])
            schedule.load_state_dict(stored["schedule"])
            torch.set_rng_state(stored["rng"])
            ema, state = stored["ema"], {key: stored[key] for key in state}
            print(f"continued from step {state['step']}", flush=True)

    while state["step"] < RECIPE["steps"]:
        start, total = time.perf_counter(), 0.0
        for _ in range(REPORT_EVERY):
            loss = loss_of(unet, scheduler, images, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), RECIPE["clip"])
            optimizer.step()
            schedule.step()
            state["step"] += 1
            average(ema, unet.state_dict(), min(RECIPE["ema"], state["step"] / (state["step"] + 10)))
            total += loss.item()
        state["seconds"] += time.perf_counter() - start
        state["losses"].append(round(total / REPORT_EVERY, 5))
        print(f"step {state['step']}: loss {state['losses'][-1]}, {state['seconds']:.0f} s", flush=True)
        resumable = {"unet": unet.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        aside = checkpoint.with_suffix(".part")
        torch.save({**state, **resumable, "ema": ema, "rng": torch.get_rng_state(), "settings": _settings()}, aside)
        aside.replace(checkpoint)
    return {**state, "ema": ema}


def rate(step: int) -> float:
    """Share of the top learning rate: linear rise, flat, half a cosine down to 0 at the last step."""
    falling = (step / RECIPE["steps"] - RECIPE["flat"]) / (1 - RECIPE["flat"])
    return min((step + 1) / RECIPE["warmup"], 1.0) * (1 + math.cos(math.pi * min(max(falling, 0.0), 1.0))) / 2


def loss_of(unet: UNet2DModel, scheduler: DDIMScheduler, images: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of the predicted noise for one random batch; its times are spread evenly over the schedule."""
    batch = RECIPE["batch"]
    index = torch.randint(len(images), (batch,))
    x = images[index]
    dropped = torch.rand(batch) < RECIPE["label_dropout"]
    asked = labels[index].masked_fill(dropped, NULL_CLASS)
    t = ((torch.arange(batch) + torch.rand(batch)) / batch * NOISE["num_train_timesteps"]).long()
    noise = torch.randn_like(x)
    with torch.autocast("cpu", getattr(torch, RECIPE["autocast"])):
        predicted = unet(scheduler.add_noise(x, noise, t), t, class_labels=asked).sample
    return mse_loss(predicted.float(), noise)


@torch.no_grad()
def average(ema: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the exponential moving average towards `weights`, in place."""
    for name, mean in ema.items():
        mean.lerp_(weights[name], 1 - decay)


def write_folder(weights: Mapping[str, Tensor], folder: Path) -> None:
    """The pipeline folder, weights in float16; `pipeline.py` is in it already."""
    unet = UNet2DModel(**UNET)
    unet.load_state_dict(weights)
    unet.half().save_pretrained(folder / "unet")
    (folder / "unet" / WEIGHTS_NAME).chmod(0o644)  # safetensors leaves it readable by its owner alone
    scheduler = DDIMScheduler(**NOISE, **SAMPLING)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": ["pipeline", "GlyphPipeline"],
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _settings() -> str:
    """What a checkpoint must have been trained with for a run to go on from it."""
    return json.dumps([DATA, UNET, NOISE, RECIPE])


def _versions() -> dict[str, str]:
    libraries = {m.__name__: m.__version__ for m in (torch, diffusers, np, PIL, matplotlib)}
    return {"python": platform.python_version(), **libraries}


if __name__ == "__main__":
    main()
