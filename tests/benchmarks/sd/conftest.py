"""Pipelines of the four classes of the study, tiny and with random weights, as folders; and a study of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from ...diffusion.cascade.families import DYNAMIC, kl, made  # noqa: E402
from ...diffusion.conftest import CONDITIONED, LATENTS, SD, VAE, text_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
RUN = ROOT / "benchmarks" / "sd" / "run.py"
PROMPTS = ["a cat", "<script>alert(1)</script> & a dog"]


def tokenizer(folder: Path) -> Any:
    """A tokenizer of single letters, as CLIP's files hold one."""
    folder.mkdir()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), model_max_length=16)


def t5(width: int) -> dict[str, Any]:
    torch.manual_seed(2)
    config = transformers.T5Config(
        vocab_size=64, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{chr(97 + i)}", -1.0) for i in range(26))]
    words = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=16)
    return {"tokenizer_2": words, "text_encoder_2": transformers.T5EncoderModel(config).eval()}


def pipelines(folder: Path) -> dict[str, Any]:
    """The four pipelines; each trained at 16 pixels, as its config or the study says."""
    words = tokenizer(folder / "tokenizer")
    text = {"text_encoder": text_model("CLIPTextModel"), "tokenizer": words}
    pooled = {"text_encoder": text_model("CLIPTextModelWithProjection"), "tokenizer": words}
    second = {"text_encoder_2": text_model("CLIPTextModelWithProjection"), "tokenizer_2": words}
    vae = made(diffusers.AutoencoderKL, **VAE)
    sd = diffusers.StableDiffusionPipeline(
        vae=vae, **text, unet=made(diffusers.UNet2DConditionModel, **{**CONDITIONED, **LATENTS}),
        scheduler=diffusers.DDIMScheduler(**SD, clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    added = {
        "cross_attention_dim": 16, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 24 + 8,
    }  # fmt: skip
    xl = diffusers.StableDiffusionXLPipeline(
        vae=vae, **text, **second, unet=made(diffusers.UNet2DConditionModel, **{**CONDITIONED, **LATENTS, **added}),
        scheduler=diffusers.EulerDiscreteScheduler(**SD), add_watermarker=False,
    )  # fmt: skip
    sd3 = diffusers.StableDiffusion3Pipeline(
        transformer=made(
            diffusers.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, num_layers=1,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
            pooled_projection_dim=16, out_channels=4, pos_embed_max_size=24,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=kl(shift_factor=0.06, scaling_factor=1.5),
        **pooled, **second, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    flux = diffusers.FluxPipeline(
        transformer=made(
            diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
            attention_head_dim=16, num_attention_heads=1, joint_attention_dim=8, pooled_projection_dim=8,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC), **text, **t5(8),
        vae=kl(shift_factor=0.1, scaling_factor=0.4, use_quant_conv=False, use_post_quant_conv=False),
    )  # fmt: skip
    return {"sd": sd, "sdxl": xl, "sd3": sd3, "flux": flux}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pipelines, saved; their configs say which class each is."""
    base = tmp_path_factory.mktemp("pipelines")
    for name, pipe in pipelines(base).items():
        pipe.save_pretrained(base / name)
    return {name: base / name for name in ("sd", "sdxl", "sd3", "flux")}


def accelerate(*arguments: str | Path, processes: int = 2) -> list[str]:
    """The command line of a run on CPU processes.

    `accelerate launch --cpu --num_processes 2` starts one process (accelerate 1.15: it leaves more to MPI). With
    `--multi_gpu` it starts as many as are asked for, and without a GPU each of them gets the CPU.
    """
    launch = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ]  # fmt: skip
    return [*launch, str(RUN), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "cli")]),
    }  # fmt: skip


def run(*arguments: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a study to its end: through `accelerate launch`, or with `processes=0` by Python alone."""
    command = accelerate(*arguments, processes=processes) if processes else [sys.executable, RUN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)


class Features(torch.nn.Module):
    """A small random network of features: (N, 3, H, W) uint8 -> (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 6, 3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.convolution(pictures.float() / 255).relu().mean((2, 3))


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a TorchScript file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("features") / "features.pt"
    torch.jit.script(Features()).save(str(path))
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of reference pictures, not square, and larger than the samples."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(6):
        small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder
