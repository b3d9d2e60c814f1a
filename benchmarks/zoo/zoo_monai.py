"""MONAI: networks of medical images, in two and three dimensions."""

from __future__ import annotations

import torch
from architecture import Architecture
from monai.networks import nets
from torch import Tensor, nn

CUBE = (1, 32, 32, 32)
SQUARE = (1, 64, 64)


def _timed(image: Tensor) -> tuple[Tensor, Tensor]:
    return image, torch.full((len(image),), 10.0)


def _vqvae() -> nn.Module:
    return nets.VQVAE(
        2,
        1,
        1,
        channels=(8, 16),
        num_res_channels=(8, 16),
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=32,
        embedding_dim=8,
    )


class Mean(nn.Module):
    """An autoencoder that decodes the mean of its code and draws nothing."""

    def __init__(self, coder: nets.AutoencoderKL) -> None:
        super().__init__()
        self.coder = coder

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.coder.reconstruct(image)
        return found


ARCHITECTURES = {
    "UNet, 2-D": Architecture(lambda: nets.UNet(2, 1, 3, (8, 16, 32), (2, 2), num_res_units=2), SQUARE),
    "UNet, 3-D": Architecture(lambda: nets.UNet(3, 1, 3, (8, 16, 32), (2, 2), num_res_units=1), CUBE),
    "BasicUNet": Architecture(lambda: nets.BasicUNet(2, 1, 3, (8, 8, 16, 32, 32, 8)), SQUARE),
    "BasicUNet, 3-D": Architecture(lambda: nets.BasicUNet(3, 1, 3, (4, 4, 8, 16, 16, 4)), CUBE),
    "BasicUNet++": Architecture(lambda: nets.BasicUNetPlusPlus(2, 1, 3, (8, 8, 16, 32, 32, 8)), SQUARE),
    "AttentionUnet": Architecture(lambda: nets.AttentionUnet(2, 1, 3, (8, 16, 32), (2, 2)), SQUARE),
    "DynUNet": Architecture(lambda: nets.DynUNet(2, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32]), SQUARE),
    "DynUNet, 3-D": Architecture(
        lambda: nets.DynUNet(3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16], res_block=True), CUBE
    ),
    "SegResNet": Architecture(lambda: nets.SegResNet(2, 8, 1, 3, blocks_down=(1, 1, 1), blocks_up=(1, 1)), SQUARE),
    "SegResNet, 3-D": Architecture(lambda: nets.SegResNet(3, 8, 1, 3, blocks_down=(1, 1), blocks_up=(1,)), CUBE),
    "SegResNetVAE": Architecture(
        lambda: nets.SegResNetVAE(
            (64, 64), spatial_dims=2, in_channels=1, out_channels=3, blocks_down=(1, 1, 1), blocks_up=(1, 1)
        ),
        SQUARE,
    ),
    "SegResNetDS": Architecture(
        lambda: nets.SegResNetDS(2, 8, 1, 3, blocks_down=(1, 1, 1), blocks_up=(1, 1), dsdepth=1), SQUARE
    ),
    "SwinUNETR": Architecture(
        lambda: nets.SwinUNETR(1, 3, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=2, patch_size=2, window_size=4),
        SQUARE,
    ),
    "SwinUNETR, 3-D": Architecture(
        lambda: nets.SwinUNETR(
            1, 3, feature_size=12, depths=(1, 1, 1, 1), norm_name=("group", {"num_groups": 4}), window_size=4
        ),
        CUBE,
    ),
    "UNETR": Architecture(lambda: nets.UNETR(1, 3, (64, 64), 8, 48, 64, 4, spatial_dims=2, proj_type="conv"), SQUARE),
    "UNETR, perceptron": Architecture(
        lambda: nets.UNETR(1, 3, (64, 64), 8, 48, 64, 4, spatial_dims=2, proj_type="perceptron"), SQUARE
    ),
    "VNet": Architecture(lambda: nets.VNet(2, 1, 3), SQUARE),
    "AHNet": Architecture(lambda: nets.AHNet(spatial_dims=2, in_channels=1, out_channels=3, psp_block_num=0), SQUARE),
    "HighResNet": Architecture(lambda: nets.HighResNet(2, 1, 3, channel_matching="pad"), (1, 32, 32)),
    "FlexibleUNet": Architecture(lambda: nets.FlexibleUNet(1, 3, "resnet10", spatial_dims=2), SQUARE),
    "DenseNet121": Architecture(lambda: nets.DenseNet121(2, 1, 3), SQUARE),
    "DenseNet, 3-D": Architecture(
        lambda: nets.DenseNet(3, 1, 3, init_features=8, growth_rate=8, block_config=(2, 2)), CUBE
    ),
    "ResNet10, 3-D": Architecture(
        lambda: nets.ResNet("basic", [1, 1, 1, 1], [8, 16, 24, 32], spatial_dims=3, n_input_channels=1, num_classes=3),
        (1, 48, 48, 48),
    ),
    "ResNet18": Architecture(lambda: nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=3), (1, 128, 128)),
    "SEResNet50": Architecture(lambda: nets.SEResNet50(spatial_dims=2, in_channels=1, num_classes=3), (1, 128, 128)),
    "EfficientNetBN": Architecture(
        lambda: nets.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1, num_classes=3),
        (1, 128, 128),
    ),
    "ViT": Architecture(
        lambda: nets.ViT(1, (64, 64), (8, 8), 48, 64, 2, 4, proj_type="conv", classification=True, spatial_dims=2),
        SQUARE,
    ),
    "ViT, 3-D": Architecture(
        lambda: nets.ViT(1, (32, 32, 32), (8, 8, 8), 48, 64, 2, 4, proj_type="conv", classification=True), CUBE
    ),
    "ViTAutoEnc": Architecture(
        lambda: nets.ViTAutoEnc(1, (64, 64), (16, 16), 1, 4, 48, 64, 2, 4, spatial_dims=2), SQUARE
    ),
    "AutoEncoder": Architecture(lambda: nets.AutoEncoder(2, 1, 1, (8, 16, 32), (2, 2, 2)), SQUARE),
    "AutoEncoder, 3-D": Architecture(lambda: nets.AutoEncoder(3, 1, 1, (8, 16), (2, 2)), CUBE),
    "VarAutoEncoder": Architecture(lambda: nets.VarAutoEncoder(2, (1, 64, 64), 1, 4, (8, 16), (2, 2)), SQUARE),
    "AutoencoderKL": Architecture(
        lambda: Mean(
            nets.AutoencoderKL(
                2,
                1,
                1,
                num_res_blocks=(1, 1),
                channels=(8, 16),
                attention_levels=(False, False),
                latent_channels=4,
                norm_num_groups=4,
            )
        ),
        SQUARE,
    ),
    "VQVAE, encoder": Architecture(lambda: _vqvae().encoder, SQUARE),
    "VQVAE, decoder": Architecture(lambda: _vqvae().decoder, (8, 16, 16)),
    "DiffusionModelUNet": Architecture(
        lambda: nets.DiffusionModelUNet(
            2,
            1,
            1,
            num_res_blocks=1,
            channels=(8, 16),
            attention_levels=(False, True),
            norm_num_groups=4,
            num_head_channels=8,
        ),
        SQUARE,
        _timed,
    ),
    "Classifier": Architecture(lambda: nets.Classifier((1, 64, 64), 3, (8, 16), (2, 2)), SQUARE),
    "Regressor": Architecture(lambda: nets.Regressor((1, 64, 64), (2,), (8, 16), (2, 2)), SQUARE),
    "Critic": Architecture(lambda: nets.Critic((1, 64, 64), (8, 16), (2, 2)), SQUARE),
    "PatchDiscriminator": Architecture(lambda: nets.PatchDiscriminator(2, 8, 1, num_layers_d=2), SQUARE),
    "MedNeXt": Architecture(
        lambda: nets.MedNeXt(
            2,
            8,
            1,
            3,
            encoder_expansion_ratio=2,
            decoder_expansion_ratio=2,
            bottleneck_expansion_ratio=2,
            blocks_down=(1, 1),
            blocks_bottleneck=1,
            blocks_up=(1, 1),
        ),
        SQUARE,
    ),
    "VoxelMorphUNet": Architecture(lambda: nets.VoxelMorphUNet(2, 2, 8, (8, 8, 8, 8), (8, 8, 8, 8)), (2, 64, 64)),
    "RegUNet": Architecture(lambda: nets.RegUNet(2, 1, 8, 2, out_channels=2), SQUARE),
    "GlobalNet": Architecture(lambda: nets.GlobalNet((64, 64), 2, 1, 8, 2), SQUARE),
    "QuickNAT": Architecture(lambda: nets.Quicknat(3, 1, 16), SQUARE),
    "Restormer": Architecture(
        lambda: nets.restormer.Restormer(2, 1, 1, 8, (1, 1, 1, 1), (1, 1, 2, 2), num_refinement_blocks=1), SQUARE
    ),
    "DAF3D": Architecture(lambda: nets.DAF3D(in_channels=1, out_channels=2, visual_output=False), CUBE),
}
