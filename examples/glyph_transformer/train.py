"""Train the example flow-matching transformer at 16x16 and write the pipeline folder and what was measured.

    python examples/glyph_transformer/train.py

Writes model_index.json, transformer/, scheduler/, samples.png and results.json beside this file. Images and checkpoints
go to `rekernel-glyph-transformer` in the system's temporary folder, so that an interrupted run continues where it was.
The rate is constant and falls only at the end: a run can be shortened until then (lower `steps`, start again).
No image larger than 16x16 is ever shown to the network.
"""

import hashlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "glyphs"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion_common"))

import diffusers
import matplotlib
import numpy as np
import PIL
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from glyph_images import load_images
from measure import draw_samples, measured
from pipeline import packed, positions
from render import CLASSES
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

HERE = Path(__file__).resolve().parent
SCRATCH = Path(tempfile.gettempdir()) / "rekernel-glyph-transformer"
NULL_CLASS = len(CLASSES)  # the label that means "any digit"
DATA = {"images": 30_000, "seed": 11, "rendered_size": 64, "size": 16}
TRANSFORMER: dict[str, Any] = {
    "in_channels": 4,  # 2x2 pixels of one channel
    "num_layers": 1,
    "num_single_layers": 4,
    "num_attention_heads": 5,
    "attention_head_dim": 32,
    "axes_dims_rope": (4, 14, 14),
    "joint_attention_dim": NULL_CLASS + 1,
    "pooled_projection_dim": NULL_CLASS + 1,
}
SAMPLING: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False}
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
RECIPE: dict[str, Any] = {
    "batch": 64,
    "muon_lr": 3e-3,  # of the matrices inside the blocks; an update has the size that AdamW's would have
    "muon_weight_decay": 0.1,
    "adamw_lr": 1.5e-3,  # of everything else
    "adamw_betas": (0.9, 0.99),
    "warmup": 200,  # steps of linear rise
    "clip": 1.0,  # norm of the gradient
    "label_dropout": 0.1,
    "time_logit": (0.0, 1.2),  # mean and standard deviation of log(t / (1 - t)); t = 1 is noise
    "ema": 0.998,
    "arithmetic": "bfloat16",  # of passes; weights and averages stay in float32
    "seed": 0,
}
STEPS = 3_300
FALL = 0.2  # share of the steps at whose end the rate is 0
REPORT_EVERY = 100  # steps between two lines of progress, each with a checkpoint


def main() -> None:
    """Render or read the images, train from the last checkpoint on, write, read back, measure."""
    torch.set_num_threads(1)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(SCRATCH / "images.npz", DATA)
    state = train(images, labels, SCRATCH / "checkpoint.pt")
    write_folder(state["ema"], HERE)
    draw_samples()
    recipe = {**RECIPE, "steps": STEPS, "fall": FALL}
    results = {
        "settings": {"data": DATA, "transformer": TRANSFORMER, "sampling": SAMPLING, "recipe": recipe},
        "parameters": FluxTransformer2DModel(**TRANSFORMER).num_parameters(),
        "sha256": hashlib.sha256((HERE / "transformer" / WEIGHTS_NAME).read_bytes()).hexdigest(),
        "quality": measured(),
        "seconds_training": round(state["seconds"]),
        "losses": {"every": REPORT_EVERY, "mean": state["losses"]},
        "versions": _versions(),
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def train(images: Tensor, labels: Tensor, checkpoint: Path) -> dict[str, Any]:
    """Predict the velocity noise - image; the state after the last step, with the averaged weights under 'ema'."""
    torch.manual_seed(RECIPE["seed"])
    transformer = started(FluxTransformer2DModel(**TRANSFORMER))
    passes = Passes(transformer)
    optimizers = optimizers_of(transformer)
    ema = {name: weight.detach().clone() for name, weight in transformer.state_dict().items()}
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        if stored["settings"] == _settings():
            transformer.load_state_dict(stored["transformer"])
            for optimizer, kept in zip(optimizers, stored["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            torch.set_rng_state(stored["rng"])
            ema, state = stored["ema"], {key: stored[key] for key in state}
            print(f"continued from step {state['step']}", flush=True)

    tokens = packed(images)
    while state["step"] < STEPS:
        start, total = time.perf_counter(), 0.0
        for _ in range(REPORT_EVERY):
            with plain_attention():
                total += passes.gradients(tokens, labels)
            torch.nn.utils.clip_grad_norm_(transformer.parameters(), RECIPE["clip"])
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["top_lr"] * rate(state["step"])
                optimizer.step()
            state["step"] += 1
            average(ema, transformer.state_dict(), min(RECIPE["ema"], state["step"] / (state["step"] + 10)))
        state["seconds"] += time.perf_counter() - start
        state["losses"].append(round(total / REPORT_EVERY, 5))
        print(f"step {state['step']}: loss {state['losses'][-1]}, {state['seconds']:.0f} s", flush=True)
        resumable = {"transformer": transformer.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
        aside = checkpoint.with_suffix(".part")
        torch.save({**state, **resumable, "ema": ema, "rng": torch.get_rng_state(), "settings": _settings()}, aside)
        aside.replace(checkpoint)
    return {**state, "ema": ema}


def rate(step: int) -> float:
    """Share of the top learning rate: linear rise, flat, linear fall to 0 at the last step."""
    return min((step + 1) / RECIPE["warmup"], 1.0, (STEPS - step) / (FALL * STEPS))


def started(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Every block adds nothing at first, and the output is 0 (as in DiT, arXiv 2212.09748): in place."""
    modulations = [m.linear for n, m in transformer.named_modules() if ".norm" in n and hasattr(m, "linear")]
    for layer in [*modulations, transformer.norm_out.linear, transformer.proj_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return transformer.train()


def optimizers_of(transformer: FluxTransformer2DModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, the modulations left out; AdamW for the rest."""
    inside, rest = [], []
    for name, weight in transformer.named_parameters():
        matrix = "transformer_blocks." in name and ".norm" not in name and weight.ndim == 2
        (inside if matrix else rest).append(weight)
    muon = torch.optim.Muon(
        inside, lr=RECIPE["muon_lr"], weight_decay=RECIPE["muon_weight_decay"], adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=RECIPE["adamw_lr"], betas=RECIPE["adamw_betas"], weight_decay=0.0)
    for optimizer in (muon, adamw):
        optimizer.param_groups[0]["top_lr"] = optimizer.param_groups[0]["lr"]
    return [muon, adamw]


class Passes:
    """Forward and backward passes of a copy in a faster, smaller type; the gradients go to the float32 weights.

    The time reaches its embedding in float32: the Flux forward rounds it to the images' type, 1/256 near t = 1.
    """

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        self.dtype = getattr(torch, RECIPE["arithmetic"])
        self.weights = list(transformer.parameters())
        self.copy = deepcopy(transformer).to(self.dtype)
        self.time = torch.zeros(RECIPE["batch"])
        self.copy.time_text_embed.register_forward_pre_hook(lambda _, args: (1000 * self.time, *args[1:]))
        side = DATA["size"] // 2
        self.ids = positions(side, side)

    def gradients(self, tokens: Tensor, labels: Tensor) -> float:
        """Set the gradients of the loss of one random batch; the loss, the mean squared error of the velocity."""
        with torch.no_grad():
            for low, weight in zip(self.copy.parameters(), self.weights, strict=True):
                low.copy_(weight)
        self.copy.zero_grad(set_to_none=True)
        loss = self._loss(tokens, labels)
        loss.backward()
        for low, weight in zip(self.copy.parameters(), self.weights, strict=True):
            weight.grad = low.grad.float()
        return loss.item()

    def _loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        batch = RECIPE["batch"]
        index = torch.randint(len(tokens), (batch,))
        x, noise = tokens[index], torch.randn(batch, *tokens.shape[1:])
        asked = labels[index].masked_fill(torch.rand(batch) < RECIPE["label_dropout"], NULL_CLASS)
        text = one_hot(asked, NULL_CLASS + 1).to(self.dtype)
        self.time = t = times(batch)
        noisy = torch.lerp(x, noise, t[:, None, None])
        predicted = self.copy(
            hidden_states=noisy.to(self.dtype), encoder_hidden_states=text[:, None], pooled_projections=text,
            timestep=t, img_ids=self.ids, txt_ids=torch.zeros(1, 3), return_dict=False,
        )[0]  # fmt: skip
        return mse_loss(predicted.float(), noise - x)


def times(batch: int) -> Tensor:
    """Logit-normal times (arXiv 2403.03206, eq. 19), spread evenly over the distribution within a batch: (batch,)."""
    mean, deviation = RECIPE["time_logit"]
    share = (torch.arange(batch) + torch.rand(batch)) / batch
    return torch.sigmoid(mean + deviation * torch.special.ndtri(share.clamp(1e-4, 1 - 1e-4)))


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as two products: for 65 tokens on a CPU, a sixth of the time of torch's own, both passes."""
    kept = nn.functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return logits.softmax(-1) @ value

    nn.functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = kept


@torch.no_grad()
def average(ema: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the exponential moving average towards `weights`, in place."""
    for name, mean in ema.items():
        mean.lerp_(weights[name], 1 - decay)


def write_folder(weights: Mapping[str, Tensor], folder: Path) -> None:
    """The pipeline folder, weights in bfloat16; `pipeline.py` is in it already."""
    transformer = FluxTransformer2DModel(**TRANSFORMER)
    transformer.load_state_dict(weights)
    transformer.bfloat16().save_pretrained(folder / "transformer")
    (folder / "transformer" / WEIGHTS_NAME).chmod(0o644)  # safetensors leaves it readable by its owner alone
    FlowMatchEulerDiscreteScheduler(**SAMPLING).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": ["pipeline", "GlyphTransformerPipeline"],
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "sample_size": DATA["size"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _settings() -> str:
    """What a checkpoint must have been trained with for a run to go on from it; the number of steps may change."""
    return json.dumps([DATA, TRANSFORMER, RECIPE])


def _versions() -> dict[str, str]:
    libraries = {m.__name__: m.__version__ for m in (torch, diffusers, np, PIL, matplotlib)}
    return {"python": platform.python_version(), **libraries}


if __name__ == "__main__":
    main()
