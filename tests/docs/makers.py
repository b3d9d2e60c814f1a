"""What the how-tos start from, small and random: the files and folders that their first lines name.

Each maker fills the current folder and returns the names that a page's Python takes as given.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from safetensors.numpy import save_file

from ..workers.models import sharded
from .pages import ROOT


def conv(rng: np.random.Generator, out: int, inputs: int) -> np.ndarray[Any, Any]:
    return rng.normal(size=(out, inputs, 3, 3)).astype(np.float32)


def classifier() -> dict[str, Any]:
    from transformers import ResNetConfig, ResNetForImageClassification

    for name in ("cnn.safetensors", "mlp.safetensors", "models.py", "test.npz"):
        shutil.copy(ROOT / "examples" / "glyphs" / name, name)
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ResNetForImageClassification(config).save_pretrained("resnet")
    return {}


def several_processes() -> dict[str, Any]:
    """The ResNet of `classifier`, and the variables that torchrun sets, for a single process."""
    classifier()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    return {}


def vit() -> dict[str, Any]:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained("vit")
    return {}


def segmentation() -> dict[str, Any]:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).save_pretrained("segformer")
    return {}


def stable_diffusion() -> dict[str, Any]:
    """Trained at 16x16: latents of 8x8, a VAE that enlarges by 2."""
    _pipeline("sd15")
    rng = np.random.default_rng(0)
    unet = "model.diffusion_model."
    tensors = {
        "input_blocks.0.0": conv(rng, 8, 4), "input_blocks.1.0.in_layers.2": conv(rng, 8, 8),
        "input_blocks.3.0.op": conv(rng, 8, 8), "input_blocks.4.0.in_layers.2": conv(rng, 16, 8),
        "middle_block.0.in_layers.2": conv(rng, 16, 16), "output_blocks.2.1.conv": conv(rng, 16, 16),
        "output_blocks.5.0.in_layers.2": conv(rng, 8, 24), "out.2": conv(rng, 4, 8),
    }  # fmt: skip
    metadata = {"format": "pt", "modelspec.resolution": "512x512"}
    save_file({f"{unet}{name}.weight": w for name, w in tensors.items()}, "v1-5.safetensors", metadata)
    return {}


def lora() -> dict[str, Any]:
    import rekernel as rk
    from rekernel.diffusion import record

    _pipeline("sd15")
    record("sd15", Path("sd15-guided"), 2.0, guidance={"theta": 1.0, "eta": 0.6}, kernels={})
    rk.convert("sd15", "sd15-2x", scale=2)
    rng = np.random.default_rng(0)
    adapter = {}
    for layer in ("mid_block.resnets.0.conv1", "down_blocks.0.resnets.0.conv2"):
        width = 64 if "mid" in layer else 32
        adapter[f"unet.{layer}.lora_A.weight"] = conv(rng, 4, width)
        adapter[f"unet.{layer}.lora_B.weight"] = rng.normal(size=(width, 4, 1, 1)).astype(np.float32)
    save_file(adapter, "style.safetensors", {"format": "pt"})
    return {}


def video() -> dict[str, Any]:
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter

    _pipeline("sd15")
    adapter = MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )  # fmt: skip
    pipe = AnimateDiffPipeline.from_pretrained(
        "sd15", motion_adapter=adapter, scheduler=DDIMScheduler(clip_sample=False)
    )
    pipe.save_pretrained("animate")
    return {}


def frameworks() -> dict[str, Any]:
    import flax.linen as fl
    import jax
    import keras

    class Net(fl.Module):
        @fl.compact
        def __call__(self, x: Any) -> Any:
            x = fl.relu(fl.Conv(8, (3, 3))(x))
            return fl.Conv(4, (3, 3))(x)

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, padding="same", activation="relu"), keras.layers.Conv2D(4, 3, padding="same")]
    keras.Sequential([keras.Input((16, 16, 3)), *layers]).save("net.keras")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3, 2, 1))
    image = torch.zeros(1, 3, 32, 32)
    torch.onnx.export(net, (image,), "net.onnx", dynamo=False, input_names=["image"], output_names=["map"])
    return {"variables": Net().init(jax.random.key(0), jax.numpy.zeros((1, 16, 16, 3)))}


def comfyui() -> dict[str, Any]:
    return {}


def _pipeline(folder: str) -> None:
    """A Stable Diffusion 1.x folder, its tokenizer one token a letter."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=16,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    Path("vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    Path("merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        vocab_size=len(names), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, bos_token_id=len(names) - 2, eos_token_id=len(names) - 1,
    )  # fmt: skip
    tokenizer = CLIPTokenizer("vocab.json", "merges.txt", model_max_length=16)
    scheduler = DDIMScheduler(clip_sample=False)
    parts = (vae, CLIPTextModel(text), tokenizer, unet, scheduler, None, None)
    StableDiffusionPipeline(*parts, requires_safety_checker=False).save_pretrained(folder)


def object_stores() -> dict[str, Any]:
    shutil.copy(ROOT / "examples" / "glyphs" / "cnn.safetensors", "cnn.safetensors")
    return {}


def many_workers() -> dict[str, Any]:
    sharded(Path("unet"))
    return {}


MAKERS = {
    "classifier": classifier, "comfyui": comfyui, "frameworks": frameworks, "lora": lora, "many-workers": many_workers,
    "object-stores": object_stores, "segmentation": segmentation, "several-processes": several_processes,
    "stable-diffusion": stable_diffusion, "video": video, "vit": vit,
}  # fmt: skip
