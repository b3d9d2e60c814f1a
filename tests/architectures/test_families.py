"""Families against the real thing: strides and paddings are read off built models, resolutions measured by hooks."""

from __future__ import annotations

import os
from functools import cache
from itertools import pairwise

import pytest

from rekernel import plan_checkpoint
from rekernel.architectures.registry import families, recognise
from rekernel.checkpoint.header import build_header
from rekernel.planning.reading_by_name import NOT_NEEDED

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
nn = torch.nn

SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}


SUPERSAMPLE = {"mode": "supersample", "method": "optimal"}


class Bottleneck(nn.Module):
    """torchvision's names; `wide` is the 1-3-1 block, which strides in its 3x3, otherwise 3-3, in its first."""

    def __init__(self, i, o, stride, wide):
        super().__init__()
        m = o // 4 if wide else o
        self.conv1 = nn.Conv2d(i, m, 1 if wide else 3, 1 if wide else stride, 0 if wide else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(m)
        self.conv2 = nn.Conv2d(m, m, 3, stride if wide else 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(m)
        if wide:
            self.conv3 = nn.Conv2d(m, o, 1, bias=False)
        if stride > 1 or i != o:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))


class ResNet(nn.Module):
    """A trunk with torchvision's names; `deep` is timm's stem of three 3x3."""

    def __init__(self, wide, deep=False):
        super().__init__()
        stem = [nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1)]
        stem += [nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1)]
        self.conv1 = nn.Sequential(*stem) if deep else nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = [64, *((256, 512, 1024, 2048) if wide else (64, 128, 256, 512))]
        for n, (i, o) in enumerate(pairwise(widths), 1):
            blocks = [Bottleneck(i, o, 1 if n == 1 else 2, wide), Bottleneck(o, o, 1, wide)]
            setattr(self, f"layer{n}", nn.Sequential(*blocks))
        self.fc = nn.Linear(widths[-1], 1000)


def huggingface(name, **config):
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config))


BASIC = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
UNET, VIT = "diffusers UNet", "vision transformer"
MODELS = {
    "SD1.5": (UNET, lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768)),
    "SD2.1": (UNET, lambda: diffusers.UNet2DConditionModel(**SD21)),
    "SDXL": (UNET, lambda: diffusers.UNet2DConditionModel(**SDXL)),
    "UNet2DModel": (UNET, diffusers.UNet2DModel),
    "UNet2DModel, resnet samplers": (
        UNET,
        lambda: diffusers.UNet2DModel(downsample_type="resnet", upsample_type="resnet"),
    ),
    "AutoencoderKL": ("diffusers AutoencoderKL", lambda: diffusers.AutoencoderKL(**VAE)),
    "ViT": (VIT, lambda: huggingface("ViT")),
    "DINOv2": (VIT, lambda: huggingface("Dinov2")),
    "DINOv2 with registers": (VIT, lambda: huggingface("Dinov2WithRegisters")),
    "DeiT": (VIT, lambda: huggingface("DeiT")),
    "ResNet-50": ("ResNet", lambda: huggingface("ResNet")),
    "ResNet-18": ("ResNet", lambda: huggingface("ResNet", **BASIC)),
    "ConvNeXt": ("ConvNeXt", lambda: huggingface("ConvNext")),
    "ConvNeXt V2": ("ConvNeXt", lambda: huggingface("ConvNextV2")),
    "torchvision ResNet, bottleneck": ("ResNet", lambda: ResNet(True)),
    "torchvision ResNet, basic": ("ResNet", lambda: ResNet(False)),
    "timm ResNet, deep stem": ("ResNet", lambda: ResNet(True, deep=True)),
}
UNKNOWN = {
    "MobileNetV2": lambda: huggingface("MobileNetV2"),
    "Swin": lambda: huggingface("Swin"),
    "SegFormer": lambda: huggingface("Segformer"),
    "Wav2Vec2": lambda: huggingface("Wav2Vec2"),
    "CLIP vision": lambda: huggingface("CLIPVision"),
    "RegNet Y": lambda: huggingface("RegNet"),
    "RegNet X": lambda: huggingface("RegNet", layer_type="x"),
    "DPT": lambda: transformers.DPTForDepthEstimation(transformers.DPTConfig(is_hybrid=False)),
}


@cache
def built(name):
    with torch.device("meta"):
        return MODELS[name][1]() if name in MODELS else UNKNOWN[name]()


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def written(tmp_path, shapes):
    """A file with these shapes whose data is a hole: plans read headers alone."""
    header, infos = build_header([(name, "F16", shape) for name, shape in shapes.items()], {"format": "pt"})
    path = tmp_path / "model.safetensors"
    path.write_bytes(header)
    os.truncate(path, len(header) + max(info.end for info in infos.values()))
    return path


def plan_of(tmp_path, shapes, **options):
    plan = plan_checkpoint(written(tmp_path, shapes), 2, **options)
    return plan, {change.name: change for change in plan.changes}


def convolutions(model):
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("name", MODELS)
def test_no_stride_of_a_familys_own_model_is_called_assumed(name, tmp_path):
    plan, _ = plan_of(tmp_path, shapes_of(built(name)), include=["*"])
    assert not [w for w in plan.warnings if "assumed" in w]


@pytest.mark.parametrize("kind", ["CLIPText", "T5Encoder", "Bert", "GPT2"])
def test_a_transformer_without_kernels_is_no_plain_mlp(kind):
    config = getattr(transformers, f"{kind.removesuffix('Encoder')}Config")()
    with torch.device("meta"):
        shapes = shapes_of(getattr(transformers, f"{kind}Model")(config))
    assert [family.name for family in families() if family.recognises(shapes)] == ["transformer"]


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_recognised_as_its_family_and_no_other(name):
    shapes = shapes_of(built(name))
    assert [family.name for family in families() if family.recognises(shapes)] == [MODELS[name][0]]


@pytest.mark.parametrize("name", MODELS)
def test_stride_and_padding_of_every_convolution_are_the_models(name, tmp_path):
    model = built(name)
    _, changes = plan_of(tmp_path, shapes_of(model), include=["*"], **SUPERSAMPLE)
    modules = convolutions(model)
    assert modules
    wrong = {}
    for tensor, module in modules.items():
        padding = [(p, p) for p in module.padding]
        if name == "AutoencoderKL" and ".downsamplers." in tensor:
            assert module.padding == (0, 0)  # its caller pads: F.pad(x, (0, 1, 0, 1))
            padding = [(0, 1), (0, 1)]
        change = changes[tensor]
        real = [(k, s, p) for k, s, p in zip(module.kernel_size, module.stride, padding, strict=True)]
        if change.geometry:
            planned = [(g.kernel, g.stride, g.padding) for g in change.geometry]
        else:
            planned = [(1, 1, (0, 0))] * len(real)  # kept as pointwise: right for nothing but 1x1, stride 1
        if planned != real:
            wrong[tensor] = (planned, real)
    assert not wrong


@pytest.mark.parametrize("name", MODELS)
def test_every_preset_of_a_real_model_finds_its_tensors(name, tmp_path):
    shapes = shapes_of(built(name))
    family = recognise(shapes)
    path = written(tmp_path, shapes)
    assert family.default in family.presets(shapes)
    for preset in family.presets(shapes):
        assert plan_checkpoint(path, 2, preset=preset, hints=None).options["selection"] == f"preset {preset!r}"


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_architecture_is_called_so_and_no_stride_is_assumed_in_silence(name, tmp_path):
    model = built(name)
    plan, changes = plan_of(tmp_path, shapes_of(model))
    assert plan.family == ""
    # What a layer that absorbs by a whole number becomes does not depend on its stride, which it multiplies.
    strided = [n for n, m in convolutions(model).items() if max(m.stride) > 1]
    assumed = [n for n in strided if n in changes and not changes[n].kept and changes[n].mode == "supersample"]
    notes = [w for w in plan.warnings if "no family recognised" in w and "hints=Hints(stride=" in w]
    assert notes or not assumed
    for tensor, module in convolutions(model).items():
        if max(module.kernel_size) > 1 and tensor in changes and changes[tensor].kept:
            if changes[tensor].reason == NOT_NEEDED:
                continue
            assert any(tensor in warning for warning in plan.warnings), tensor


def small_unet(kind):
    torch.manual_seed(0)
    common = {"sample_size": 32, "block_out_channels": (32, 64, 64), "layers_per_block": 1}
    if kind == "plain":
        blocks = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
        model = diffusers.UNet2DModel(**common, **blocks)
        return model, lambda x: model(x, 10).sample, torch.randn(1, 3, 32, 32)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    model = diffusers.UNet2DConditionModel(**common, **blocks, cross_attention_dim=16, attention_head_dim=8)
    return model, lambda x: model(x, 10, torch.zeros(1, 4, 16)).sample, torch.randn(1, 4, 32, 32)


@pytest.mark.parametrize("kind", ["plain", "conditional"])
def test_inner_is_everything_below_the_finest_level_and_every_sampler(kind, tmp_path):
    model, run, x = small_unet(kind)
    sizes = {}
    for name, module in convolutions(model).items():
        module.register_forward_hook(lambda m, i, o, n=name: sizes.update({n: (i[0].shape[-1], o.shape[-1])}))
    with torch.no_grad():
        run(x)
    assert set(sizes) == set(convolutions(model))
    plan, changes = plan_of(tmp_path, shapes_of(model))
    assert plan.options["selection"] == "preset 'inner'"
    chosen = {name for name in sizes if not changes[name].kept}
    spatial = {name for name, module in convolutions(model).items() if max(module.kernel_size) > 1}
    samplers = {name for name in spatial if "downsamplers" in name or "upsamplers" in name}
    assert len(samplers) == 4
    assert chosen == samplers | {name for name in spatial if max(sizes[name]) < 32}
    assert all(not changes[name].kept for name in samplers)
    assert not chosen & {"conv_in.weight", "conv_out.weight"}
    finest = {name for name in spatial - samplers if max(sizes[name]) == 32}
    assert {"conv_in.weight", "conv_out.weight"} < finest and not finest & chosen
    assert len(finest) == 2 + 2 * (1 + 2)  # conv_in, conv_out, two convolutions in one down and two up resnets


@pytest.mark.parametrize("name", ["ResNet-50", "torchvision ResNet, basic"])
def test_a_resnet_says_what_to_do_with_the_pooling_that_has_no_weights(name, tmp_path):
    plan, _ = plan_of(tmp_path, shapes_of(built(name)), **SUPERSAMPLE)
    assert any("max pooling" in warning and "dilate" in warning for warning in plan.warnings)
    assert not plan_of(tmp_path, shapes_of(built(name)))[0].warnings  # it absorbs, so the pooling stays


def test_a_segmentation_network_on_a_resnet_trunk_keeps_stride_one_in_its_decoder(tmp_path):
    shapes = {f"encoder.{name}": shape for name, shape in shapes_of(built("torchvision ResNet, bottleneck")).items()}
    shapes |= {"decoder.blocks.0.conv1.0.weight": (256, 3072, 3, 3), "segmentation_head.0.weight": (1, 16, 3, 3)}
    plan, changes = plan_of(tmp_path, shapes)
    assert plan.family == "ResNet"
    assert changes["encoder.layer2.0.conv2.weight"].geometry[0].stride == 2
    assert changes["decoder.blocks.0.conv1.0.weight"].geometry[0].stride == 1
    [note] = [w for w in plan.warnings if "hints=Hints(stride=" in w]
    assert "2 convolutions (decoder.blocks.0.conv1.0.weight, segmentation_head.0.weight)" in note


HEADS = {
    "torchvision DeepLabV3": {"classifier.0.convs.1.0.weight": (256, 2048, 3, 3)},
    "torchvision FCN": {"classifier.0.weight": (512, 2048, 3, 3), "classifier.4.weight": (21, 512, 1, 1)},
    "mmsegmentation PSPNet": {"decode_head.bottleneck.conv.weight": (512, 4096, 3, 3)},
}


@pytest.mark.parametrize("head", HEADS)
def test_of_a_trunk_that_may_be_dilated_no_stride_is_asserted(head, tmp_path):
    shapes = {f"backbone.{name}": shape for name, shape in shapes_of(built("torchvision ResNet, bottleneck")).items()}
    plan, changes = plan_of(tmp_path, shapes | HEADS[head])
    strides = {n: changes[f"backbone.{n}.weight"].geometry[0].stride for n in ("conv1", "layer2.0.conv2")}
    assert strides == {"conv1": 2, "layer2.0.conv2": 2}
    assert {changes[f"backbone.layer{n}.0.conv2.weight"].geometry[0].stride for n in (3, 4)} == {1}
    assert any("dilated" in w and "hints=Hints(stride=" in w and "rekernel.torch.rescale" in w for w in plan.warnings)
    [assumed] = [w for w in plan.warnings if "are assumed for" in w]
    assert "backbone.layer3.0.conv2.weight" in assumed and "layer2" not in assumed


def test_a_trunk_below_a_feature_pyramid_strides(tmp_path):
    shapes = {f"backbone.{name}": shape for name, shape in shapes_of(built("torchvision ResNet, bottleneck")).items()}
    head = {f"decode_head.{part}.0.conv.weight": (64, 64, 3, 3) for part in ("psp_modules", "fpn_convs")}
    _, changes = plan_of(tmp_path, shapes | head)
    assert changes["backbone.layer4.0.conv2.weight"].geometry[0].stride == 2


def test_a_kernel_of_7_that_is_no_stem_is_not_said_to_stride(tmp_path):
    shapes = shapes_of(built("torchvision ResNet, basic")) | {"layer4.1.attention.conv.weight": (1, 2, 7, 7)}
    plan, changes = plan_of(tmp_path, shapes, **SUPERSAMPLE)
    assert changes["layer4.1.attention.conv.weight"].geometry[0].stride == 1
    assert any("layer4.1.attention.conv.weight" in w and "hints=Hints(stride=" in w for w in plan.warnings)


def test_the_resnet_of_clip_which_pools_where_others_stride_is_not_taken_for_one():
    shapes = {f"visual.{name}": shape for name, shape in shapes_of(built("torchvision ResNet, bottleneck")).items()}
    assert recognise(shapes).name == "ResNet"
    assert recognise(shapes | {"visual.attnpool.positional_embedding": (50, 2048)}) is None


def test_a_network_that_flattens_names_the_grid_its_first_linear_may_read(tmp_path):
    vgg = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 512, 3, padding=1))
    head = nn.Sequential(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.Linear(4096, 1000))
    with torch.device("meta"):
        shapes = shapes_of(nn.ModuleDict({"features": vgg, "classifier": head}))
    plan, changes = plan_of(tmp_path, shapes, **SUPERSAMPLE)
    assert plan.family == "" and changes["classifier.0.weight"].kept
    about = [w for w in plan.warnings if "hints=Hints(linear_grid=" in w]
    assert len(about) == 1 and "--linear-grid classifier.0=512,7,7" in about[0].on_command_line()
    plan, changes = plan_of(tmp_path, shapes)  # absorbs, so that the grid keeps its size
    assert [c.name for c in plan.changed] == ["features.0.weight"]
    [note] = plan.warnings
    assert note.startswith("features.0.weight: no name tells its stride")


@pytest.mark.parametrize(("width", "grid"), [(784, "1,28,28"), (3072, "3,32,32"), (256, "1,16,16")])
def test_a_plain_mlp_names_the_image_it_may_read(width, grid, tmp_path):
    shapes = shapes_of(nn.Sequential(nn.Linear(width, 300), nn.ReLU(), nn.Linear(300, 100), nn.Linear(100, 10)))
    plan, _ = plan_of(tmp_path, shapes)
    assert plan.family == "plain MLP" and not plan.changed
    assert len(plan.warnings) == 1 and f"--linear-grid 0={grid}" in plan.warnings[0].on_command_line()


@pytest.mark.parametrize("rows", [[(10, 20), (5, 7)], [(4, 4)]])
def test_unrelated_matrices_are_no_mlp(rows):
    assert recognise({f"{i}.weight": shape for i, shape in enumerate(rows)}) is None
