"""Build small networks of real architectures from their configs, with random weights, for the tests and the benchmark.

Scope: models, their inputs and how to call them. Not here: rescaling (see `causes`). With torch's own initialisation
(a standard deviation of 0.02) the output of some networks depends almost only on their biases. So `built` draws the
weights again, independently, with a variance of one over the fan-in. Such kernels have a flat spectrum and are harder
to rescale than trained kernels. Imports diffusers and transformers where used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from torch import Tensor, nn


class Called(nn.Module):
    """A model that takes more than an image or gives more than a tensor, as image -> tensor."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x: Any) -> Any:
        return self.call(self.model, x)


class Architecture(NamedTuple):
    """One network.

    build : function that makes the network, with the weights of its own initialisation
    channels, size : channels and pixels of the input at the trained size
    grows : whether the output's grid grows with the input's (False: it does not; None: the output has no grid)
    scale : the scale that doubles the resolution of the input
    prepare : function that makes further changes to the weights
    modes : argument `modes` of `rescale`
    """

    build: Callable[[], nn.Module]
    channels: int
    size: tuple[int, ...]
    grows: bool | None = True
    scale: Any = 2
    prepare: Callable[[nn.Module], None] | None = None
    modes: dict[str, str] | None = None


def before_pooling(net: Architecture) -> Architecture:
    """The last feature map of one of transformers' classifiers instead of its logits."""

    def build() -> nn.Module:
        return Called(net.build().model, lambda m, x: m.base_model(x).last_hidden_state)

    return net._replace(build=build, grows=True)


def built(net: Architecture, seed: int = 0) -> nn.Module:
    """The network, its weights drawn anew, in evaluation mode."""
    torch.manual_seed(seed)
    model = revived(net.build(), seed)
    if net.prepare:
        net.prepare(model)
    return model


def revived(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of a size that lets the input through, and batch statistics that are not those of a fresh layer."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim >= 2 and "norm" not in name:
            fan = p[0].numel()
            p.data = torch.randn(p.shape, generator=generator) * fan**-0.5
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


# --- diffusers -------------------------------------------------------------------------------------------------


def _sample(model: Any, x: Tensor) -> Any:
    return model(x, torch.full((1,), 10.0)).sample


def unet2d() -> nn.Module:
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    model = UNet2DModel(sample_size=32, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, **blocks)
    return Called(model, _sample)


def _conditional(**more: Any) -> nn.Module:
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 32, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4,
        "attention_head_dim": 8, "cross_attention_dim": 16,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return Called(UNet2DConditionModel(**{**config, **more}), _conditioned)


def _conditioned(model: Any, x: Tensor) -> Any:
    text = torch.zeros(len(x), 3, 16)
    more = {}
    if model.config.addition_embed_type == "text_time":
        more = {"added_cond_kwargs": {"text_embeds": torch.zeros(len(x), 8), "time_ids": torch.zeros(len(x), 6)}}
    return model(x, torch.full((1,), 10.0), text, **more).sample


def sd15() -> nn.Module:
    """The layout of Stable Diffusion 1.5: attention at the finest level, none at the coarsest."""
    return _conditional()


def sdxl() -> nn.Module:
    """The layout of SDXL: no attention at the finest level, deep transformers, size and text embeddings."""
    return _conditional(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32, use_linear_projection=True,
    )  # fmt: skip


def autoencoder(call: Callable[[Any, Any], Any] = lambda m, x: m(x).sample) -> nn.Module:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return Called(AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, **blocks), call)


def encoder() -> nn.Module:
    return autoencoder(lambda m, x: m.encode(x).latent_dist.mean)


def decoder() -> nn.Module:
    return autoencoder(lambda m, x: m.decode(x).sample)


def motion() -> nn.Module:
    """Frames by height by width, as one 3-D input; the scale leaves time alone."""
    from diffusers import UNetMotionModel

    model = UNetMotionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, num_attention_heads=2, motion_num_attention_heads=2, motion_max_seq_length=4,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    )  # fmt: skip
    return Called(model, lambda m, x: m(x, torch.full((1,), 10.0), torch.zeros(x.shape[2], 3, 16)).sample)


def temporal() -> nn.Module:
    """Convolutions over time, 3x1x1, between those over space."""
    from diffusers import AutoencoderKLTemporalDecoder

    blocks = ("DownEncoderBlock2D",) * 2
    model = AutoencoderKLTemporalDecoder(block_out_channels=(32, 32), down_block_types=blocks, latent_channels=4)
    return Called(model, lambda m, x: m(x, num_frames=len(x)).sample)


# --- transformers ----------------------------------------------------------------------------------------------


def _logits(model: Any, x: Tensor) -> Any:
    return model(x).logits


def _hidden(model: Any, x: Tensor) -> Any:
    return model(x).last_hidden_state


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(depths=[1, 1], hidden_sizes=[16, 32], embedding_size=16)
    return Called(ResNetForImageClassification(config), _logits)


def convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(num_stages=2, depths=[1, 1], hidden_sizes=[16, 32], layer_scale_init_value=1.0)
    return Called(ConvNextForImageClassification(config), _logits)


def mobilenet(tf_padding: bool = True) -> nn.Module:
    """With `tf_padding` it pads by hand, unevenly, in front of every convolution."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=0.35, tf_padding=tf_padding)
    return Called(MobileNetV2ForImageClassification(config), _logits)


def segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=32)
    return Called(SegformerForSemanticSegmentation(config), _logits)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    narrow = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    return Called(ViTModel(ViTConfig(num_hidden_layers=1, image_size=64, **narrow)), _hidden)


def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(num_hidden_layers=1, hidden_size=32, num_attention_heads=2, image_size=56)
    return Called(Dinov2Model(config), _hidden)


def swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(depths=[1, 1], num_heads=[2, 2], embed_dim=16, image_size=64, window_size=4)
    return Called(SwinModel(config), _hidden)


def wav2vec2() -> nn.Module:
    """A signal; seven convolutions of stride 5 and 2, then attention."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32, conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return Called(Wav2Vec2Model(config), lambda m, x: m(x[:, 0]).last_hidden_state)


# --- written by hand -------------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.ReLU(), nn.Linear(32, 10))


def vgg(pool: nn.Module | None = None, side: int = 8) -> nn.Module:
    """Two convolutions, two maximum poolings, then a flatten, or `pool` to a `side` that stays."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), pool or nn.Identity(), nn.Flatten(), nn.Linear(16 * side * side, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def adaptive_vgg() -> nn.Module:
    return vgg(nn.AdaptiveAvgPool2d(7), side=7)


def generator() -> nn.Module:
    """A GAN's generator; its latent is a grid that grows like any image."""
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, 1, 0), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


def smooth_transposed(model: nn.Module) -> None:
    """Transposed kernels as trained ones are: what a random one of stride 2 draws is a checkerboard, which no
    rescaling keeps (error near 1 whatever the method)."""
    draws = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            taps = torch.tensor({4: [1.0, 3, 3, 1], 3: [1.0, 2, 1]}[layer.kernel_size[0]])
            mix = torch.randn(*layer.weight.shape[:2], 1, 1, generator=draws) * layer.weight.shape[0] ** -0.5
            layer.weight.data = mix * torch.outer(taps, taps) / 16


PATCHES = {"*patch_embeddings*": "absorb"}
"""A network of tokens keeps their number."""

ZOO = {
    "UNet2DModel": Architecture(unet2d, 3, (32, 32)),
    "UNet2DConditionModel, SD1.5": Architecture(sd15, 4, (32, 32)),
    "UNet2DConditionModel, SDXL": Architecture(sdxl, 4, (32, 32)),
    "UNetMotionModel": Architecture(motion, 4, (2, 32, 32), scale=(1, 2, 2)),
    "AutoencoderKL": Architecture(autoencoder, 3, (32, 32)),
    "AutoencoderKL, encoder": Architecture(encoder, 3, (32, 32)),
    "AutoencoderKL, decoder": Architecture(decoder, 4, (16, 16)),
    "AutoencoderKLTemporalDecoder": Architecture(temporal, 3, (32, 32)),
    "generator, transposed": Architecture(generator, 8, (16, 16), prepare=smooth_transposed),
    "ResNet": Architecture(resnet, 3, (128, 128), None),
    "ConvNeXt": Architecture(convnext, 3, (128, 128), None),
    "MobileNetV2": Architecture(mobilenet, 3, (128, 128), None),
    "VGG, flatten": Architecture(vgg, 3, (32, 32), None),
    "VGG, adaptive pooling": Architecture(adaptive_vgg, 3, (28, 28), None),
    "MLP": Architecture(mlp, 3, (16, 16), None),
    "SegFormer": Architecture(segformer, 3, (64, 64), False, modes={"*stages.0.patch_embeddings*": "absorb"}),
    "Swin": Architecture(swin, 3, (64, 64), None, modes=PATCHES),
    "ViT": Architecture(vit, 3, (64, 64), None, modes=PATCHES),
    "DINOv2": Architecture(dinov2, 3, (56, 56), None, modes=PATCHES),
    "Wav2Vec2": Architecture(wav2vec2, 1, (4000,), None, modes={"*conv_layers.0.conv": "absorb"}),
}
