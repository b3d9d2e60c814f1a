"""Small diffusers networks with random weights, and a look at the passes that really run: the fixture `nets`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

CONDITIONED = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1,
    "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
UNCONDITIONED = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip


class Nets:
    """Networks by config, calls of them, and what their passes were.

    unet : the one that tests share; whoever changes it puts it back
    """

    def __init__(self) -> None:
        self.unet = self.conditioned()
        self.ddim = diffusers.DDIMScheduler()

    def conditioned(self, **more: Any) -> Any:
        return self._made(diffusers.UNet2DConditionModel, **{**CONDITIONED, **more})

    def unconditioned(self, **more: Any) -> Any:
        return self._made(diffusers.UNet2DModel, **{**UNCONDITIONED, **more})

    def made(self, kind: Any, **config: Any) -> Any:
        return self._made(kind, **config)

    @staticmethod
    def _made(kind: Any, **config: Any) -> Any:
        torch.manual_seed(0)
        return kind(**config).eval().requires_grad_(False)

    @staticmethod
    def noise(*shape: int, seed: int = 0, dtype: Any = None) -> Any:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype or torch.float32)

    def call(self, net: Any, size: Any = (16, 16), t: Any = 500, batch: int = 2, **more: Any) -> Any:
        """One call of a conditioned UNet; the tensor that it gives."""
        x = more.pop("x", None)
        x = self.noise(batch, net.config.in_channels, *size) if x is None else x
        text = more.pop("text", self.noise(batch, 5, 8, seed=1))
        t = t if isinstance(t, torch.Tensor) else torch.tensor(t)
        with torch.no_grad():
            return net(x, t, encoder_hidden_states=text.to(x.dtype), **more).sample

    @contextmanager
    def passes(self, net: Any) -> Iterator[list[tuple[int, ...]]]:
        """The grids of the passes that run inside, in order; told by the network's first convolution."""
        seen: list[tuple[int, ...]] = []
        handle = net.conv_in.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape[2:])))
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def inputs(self, net: Any) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
        """The arguments of the passes that run inside: a hook on the outside sees one, so the class is asked."""
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        kind, original = type(net), type(net).forward

        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(module, *args, **kwargs)
            seen.append((args, {k: v for k, v in bound.arguments.items() if k != "self"}))
            return original(module, *args, **kwargs)

        import functools
        import inspect

        signature = inspect.signature(original)
        kind.forward = functools.wraps(original)(forward)
        try:
            yield seen
        finally:
            kind.forward = original


@pytest.fixture(scope="session")
def nets() -> Nets:
    torch.set_num_threads(1)
    return Nets()


VAE = {
    "sample_size": 16, "block_out_channels": (4, 4), "norm_num_groups": 2, "latent_channels": 4, "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


LATENTS = {"in_channels": 4, "out_channels": 4, "layers_per_block": 1}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of single letters, as CLIP's files hold one."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), model_max_length=16)


def text_model(kind):
    torch.manual_seed(1)
    config = transformers.CLIPTextConfig(
        vocab_size=54, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=52, eos_token_id=53, pad_token_id=53, projection_dim=8,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


@pytest.fixture
def sd(nets, words):
    return quiet(
        diffusers.StableDiffusionPipeline(
            vae=nets.made(diffusers.AutoencoderKL, **VAE), text_encoder=text_model("CLIPTextModel"), tokenizer=words,
            unet=nets.conditioned(**LATENTS), scheduler=diffusers.DDIMScheduler(**SD, clip_sample=False),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )
    )  # fmt: skip


@pytest.fixture
def sdxl(nets, words):
    unet = nets.conditioned(
        **LATENTS, cross_attention_dim=16, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=24 + 8,
    )  # fmt: skip
    return quiet(
        diffusers.StableDiffusionXLPipeline(
            vae=nets.made(diffusers.AutoencoderKL, **VAE), text_encoder=text_model("CLIPTextModel"),
            text_encoder_2=text_model("CLIPTextModelWithProjection"), tokenizer=words, tokenizer_2=words, unet=unet,
            scheduler=diffusers.EulerDiscreteScheduler(**SD), add_watermarker=False,
        )
    )  # fmt: skip


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe
