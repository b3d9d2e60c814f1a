"""Models of diffusers and transformers whose names are planned."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

CROSS, PLAIN, CROSS_UP, PLAIN_UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
SMALL = {"sample_size": 16, "norm_num_groups": 4, "cross_attention_dim": 16, "attention_head_dim": 4}
UNETS: dict[str, dict[str, Any]] = {
    "SD1.5": SMALL | {"block_out_channels": (8, 16, 16, 16)},
    "SD2.1": SMALL | {"block_out_channels": (8, 16, 16, 16), "use_linear_projection": True},
    "SDXL": SMALL | {
        "block_out_channels": (8, 16, 16), "use_linear_projection": True,
        "down_block_types": (PLAIN, CROSS, CROSS), "up_block_types": (CROSS_UP, CROSS_UP, PLAIN_UP),
        "transformer_layers_per_block": (1, 1, 2), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32,
    },
}  # fmt: skip
PIXELS = {"sample_size": 16, "block_out_channels": (8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
PIXELS |= {
    "down_block_types": (PLAIN, "AttnDownBlock2D", PLAIN),
    "up_block_types": (PLAIN_UP, "AttnUpBlock2D", PLAIN_UP),
}
VAE = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "layers_per_block": 2}
VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
TOKENS = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
VITS = ("ViT", "Dinov2", "Dinov2WithRegisters", "DeiT", "ViTMSN", "IJepa", "Beit", "CLIPVision")
STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 2, 1]}


def models() -> dict[str, Any]:
    """Builders of networks, by title."""
    import diffusers
    import transformers
    from torch import nn

    def huggingface(name: str, **config: Any) -> Any:
        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config))

    class Block(nn.Module):
        """torchvision's names; `wide` is the block of 1, 3 and 1 pixels."""

        def __init__(self, i: int, o: int, stride: int, wide: bool) -> None:
            super().__init__()
            m = o // 4 if wide else o
            self.conv1 = nn.Conv2d(i, m, 1 if wide else 3, 1 if wide else stride, bias=False)
            self.bn1 = nn.BatchNorm2d(m)
            self.conv2 = nn.Conv2d(m, m, 3, stride if wide else 1, 1, bias=False)
            if wide:
                self.conv3 = nn.Conv2d(m, o, 1, bias=False)
            if stride > 1 or i != o:
                self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    class ResNet(nn.Module):
        """A trunk with torchvision's names; `deep` is timm's stem of three layers."""

        def __init__(self, wide: bool, deep: bool = False) -> None:
            super().__init__()
            stem = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)]
            stem += [nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1)]
            self.conv1 = nn.Sequential(*stem) if deep else nn.Conv2d(3, 16, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            widths = [16, *((32, 48, 64, 80) if wide else (16, 32, 48, 64))]
            for n, (i, o) in enumerate(pairwise(widths), 1):
                blocks = [Block(i, o, 1 if n == 1 else 2, wide), Block(o, o, 1, wide)]
                setattr(self, f"layer{n}", nn.Sequential(*blocks))
            self.fc = nn.Linear(widths[-1], 10)

    def vgg(last: int) -> Any:
        body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1)
        )
        head = nn.Sequential(nn.Linear(last, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
        return nn.ModuleDict({"features": body, "classifier": head})

    made: dict[str, Any] = {n: lambda c=c: diffusers.UNet2DConditionModel(**c) for n, c in UNETS.items()}
    made |= {
        "UNet2DModel": lambda: diffusers.UNet2DModel(**PIXELS),
        "UNet2DModel, resnet samplers": lambda: diffusers.UNet2DModel(
            **PIXELS, downsample_type="resnet", upsample_type="resnet"
        ),
        "UNet2DModel, padded by hand": lambda: diffusers.UNet2DModel(**PIXELS, downsample_padding=0),
        "UNetMotionModel": lambda: diffusers.UNetMotionModel(
            sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
            num_attention_heads=2, motion_num_attention_heads=2, motion_max_seq_length=4,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        ),
        "AutoencoderKL": lambda: diffusers.AutoencoderKL(**VAE),
        "AutoencoderKLTemporalDecoder": lambda: diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
        ),
        **{name: lambda name=name: huggingface(name, **TOKENS) for name in VITS},
        "BEiT with absolute positions": lambda: huggingface("Beit", **TOKENS, use_absolute_position_embeddings=True),
        "ViT, classifier": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**TOKENS)),
        "ResNet, bottleneck": lambda: huggingface("ResNet", **STAGES),
        "ResNet, basic": lambda: huggingface("ResNet", **STAGES, layer_type="basic"),
        "ConvNeXt": lambda: huggingface("ConvNext", hidden_sizes=[8, 16, 32, 64], depths=[1] * 4),
        "ConvNeXt V2": lambda: huggingface("ConvNextV2", hidden_sizes=[8, 16, 32, 64], depths=[1] * 4),
        "torchvision ResNet, bottleneck": lambda: ResNet(True),
        "torchvision ResNet, basic": lambda: ResNet(False),
        "timm ResNet, deep stem": lambda: ResNet(True, deep=True),
        "MobileNetV2": lambda: huggingface("MobileNetV2", depth_multiplier=0.1),
        "Swin": lambda: huggingface(
            "Swin", depths=[1, 1], num_heads=[2, 2], embed_dim=16, image_size=64, window_size=4
        ),
        "SegFormer": lambda: huggingface("Segformer", depths=[1] * 4, hidden_sizes=[8, 16, 24, 32]),
        "Wav2Vec2": lambda: huggingface(
            "Wav2Vec2", num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32,
            conv_dim=(32,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        ),
        "RegNet Y": lambda: huggingface(
            "RegNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8
        ),
        "RegNet X": lambda: huggingface(
            "RegNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8, layer_type="x"
        ),
        "DPT": lambda: transformers.DPTForDepthEstimation(
            transformers.DPTConfig(
                **TOKENS | {"num_hidden_layers": 4}, is_hybrid=False, backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            )
        ),
        "VGG": lambda: vgg(32 * 7 * 7),
        **{
            f"MLP of {n}": lambda n=n: nn.Sequential(nn.Linear(n, 30), nn.ReLU(), nn.Linear(30, 20), nn.Linear(20, 10))
            for n in (784, 3072, 256)
        },
    }  # fmt: skip
    return made


def shapes_of(build: Any) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        model = build()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
