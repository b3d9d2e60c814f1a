"""Networks that are traced: every architecture of benchmarks/accuracy/zoo.py, and those that tests write by hand."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .old_defaults import rescale
from .plan_text import Case
from .trace_models import Autoencoder, Generator, Mirrored, Net, Same, Tied, Tokens, conv, padded

ROOT = Path(__file__).parents[2]
FORMS = ("dense", "factored", "auto")
GROWS = {"*patch_embeddings*": "supersample"}


def loaded(path: Path) -> Any:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planned(build: Callable[[], nn.Module], scale: Any, example: Any, **options: Any) -> Any:
    """The plan that is on a rescaled model."""
    torch.manual_seed(0)
    return rescale(build().eval(), scale, example, **options).rekernel_plan


def each_form(title: str, build: Callable[[], nn.Module], scale: Any, example: Any, **options: Any) -> Iterator[Case]:
    for form in FORMS:
        yield f"{title}, {form}", lambda f=form: planned(build, scale, example, form=f, **options)


# --- networks of benchmarks/accuracy/zoo.py --------------------------------------------------------------------

OTHER_SCALES = {
    "UNet2DModel": 3,
    "ResNet": (2, 1),
    "ViT": 1.5,
    "generator, transposed": 1.5,
    "Wav2Vec2": 3,
    "MLP": (3, 1.5),
}
OTHER_METHODS = {
    "UNet2DModel": ("dilate", "cubic"), "generator, transposed": ("dilate", "linear"), "ViT": ("dilate", "pinv-linear"),
    "MLP": ("nearest", "pinv-cubic"), "Swin": ("linear",), "SegFormer": ("area",), "ConvNeXt": ("dilate", "lanczos3"),
}  # fmt: skip
SMALLER = {
    "UNet2DModel": (16, 16), "UNet2DConditionModel, SD1.5": (16, 16), "UNet2DConditionModel, SDXL": (16, 16),
    "UNetMotionModel": (2, 16, 16), "AutoencoderKL": (16, 16), "AutoencoderKL, encoder": (16, 16),
    "AutoencoderKL, decoder": (8, 8), "AutoencoderKLTemporalDecoder": (16, 16), "ResNet": (64, 64),
    "ConvNeXt": (64, 64), "MobileNetV2": (64, 64), "Wav2Vec2": (800,),
}  # fmt: skip
SLOW = ("UNet2DConditionModel, SD1.5", "UNet2DConditionModel, SDXL", "UNetMotionModel", "AutoencoderKLTemporalDecoder")


def zoo() -> Iterator[Case]:
    nets = loaded(ROOT / "benchmarks" / "accuracy" / "zoo.py")
    for name, net in nets.ZOO.items():
        size = SMALLER.get(name, net.size)
        x = torch.zeros(1, net.channels, *size)
        more = {} if net.modes is None else {"modes": net.modes}
        for form in FORMS[:2] if name in SLOW else FORMS:
            yield f"{name}, {form}", lambda n=net, x=x, o=more, f=form: planned(n.build, n.scale, x, form=f, **o)
        if name in OTHER_SCALES:
            scale = OTHER_SCALES[name]
            yield f"{name}, scale {scale}", lambda n=net, s=scale, x=x: planned(n.build, s, x)
        for method, form in itertools.product(OTHER_METHODS.get(name, ()), ("dense", "factored")):
            yield (
                f"{name}, {method}, {form}",
                lambda n=net, m=method, f=form, x=x, o=more: planned(n.build, n.scale, x, method=m, form=f, **o),
            )
    vit, dino, swin = nets.ZOO["ViT"], nets.ZOO["DINOv2"], nets.ZOO["Swin"]
    modes = {"*patch_embeddings*": "supersample"}
    for title, net in (("ViT", vit), ("DINOv2", dino), ("Swin", swin)):
        x = torch.zeros(1, 3, *net.size)
        yield from each_form(f"{title}, growing", net.build, 2, x, modes=modes)
        yield f"{title}, growing, 1.5", lambda n=net, x=x: planned(n.build, 1.5, x, modes=modes, method="dilate")
    x = torch.zeros(1, 3, 64, 64)
    yield "MobileNetV2, padded by its layers", lambda: planned(lambda: nets.mobilenet(False), 2, x)
    unet = nets.ZOO["UNet2DModel"]
    x = torch.zeros(1, 3, 16, 16)
    yield "UNet2DModel, included", lambda: planned(unet.build, 2, x, include=["*mid_block*", "*samplers*"])
    yield (
        "UNet2DModel, excluded",
        lambda: planned(unet.build, 2, x, exclude=["*conv_in*", "re:.*norm"], form="factored"),
    )
    yield "UNet2DModel, taps full", lambda: planned(unet.build, 2, x, taps="full")
    yield (
        "ResNet, feature map",
        lambda: planned(nets.before_pooling(nets.ZOO["ResNet"]).build, 2, torch.zeros(1, 3, 64, 64)),
    )


# --- transformers and diffusers --------------------------------------------------------------------------------


def libraries() -> Iterator[Case]:
    import diffusers
    import transformers

    small = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
        "patch_size": 4,
    }  # fmt: skip

    def made(kind: str, **options: Any) -> Callable[[], Any]:
        model = getattr(transformers, kind)
        return lambda: model(model.config_class(**options))

    x = torch.zeros(1, 3, 16, 16)
    for kind, more in {
        "ViTForImageClassification": {}, "DeiTModel": {}, "ViTMSNModel": {}, "IJepaModel": {},
        "Dinov2ForImageClassification": {"use_swiglu_ffn": True, "mlp_ratio": 2}, "Dinov2WithRegistersModel": {},
        "BeitModel": {"use_absolute_position_embeddings": True}, "CLIPVisionModel": {},
    }.items():  # fmt: skip
        yield kind, lambda k=kind, m=more: planned(made(k, **small, **m), 2, x)
        yield (
            f"{kind}, growing",
            lambda k=kind, m=more: planned(made(k, **small, **m), 2, x, modes={"*patch_embedding*": "supersample"}),
        )
    swin = {"num_heads": [2, 2], "embed_dim": 16}
    for window, size, depths in ((4, 64, [2, 1]), (7, 56, [2])):
        options = {**swin, "depths": depths, "num_heads": [2] * len(depths), "image_size": size, "window_size": window}
        z = torch.zeros(1, 3, size, size)
        for scale, method in ((2, "optimal"), (1.5, "optimal"), (2, "linear"), ((2, 1), "dilate")):
            yield (
                f"Swin, windows of {window}, scale {scale}, {method}",
                lambda o=options, z=z, s=scale, m=method: planned(made("SwinModel", **o), s, z, modes=GROWS, method=m),
            )
        yield (
            f"Swin, windows of {window}, table excluded",
            lambda o=options, z=z: planned(
                made("SwinModel", **o), 2, z, modes=GROWS, exclude=["*relative_position_bias_table"]
            ),
        )
    z = torch.zeros(1, 3, 64, 64)
    v2 = {"depths": [2], "num_heads": [2], "embed_dim": 16, "image_size": 64, "window_size": 4}
    yield "Swin v2", lambda: planned(made("Swinv2Model", **v2), 2, z, modes=GROWS)
    beit = {**small, "image_size": 64, "patch_size": 16, "use_relative_position_bias": True}
    yield "BEiT, growing", lambda: planned(made("BeitModel", **beit), 2, z, modes=GROWS)
    stages = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
    for kind, options in {
        "ResNetModel": {**stages, "layer_type": "basic"},
        "RegNetModel": {**stages, "groups_width": 8},
        "ConvNextV2Model": {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    }.items():
        yield from each_form(kind, made(kind, **options), 2, z)
    wav = {
        "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32,
        "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    signal = {"input_values": torch.zeros(1, 800)}
    yield "Wav2Vec2, a signal without channels", lambda: planned(made("Wav2Vec2Model", **wav), 2, signal)
    for padding in (0, 1):
        unet = {
            "sample_size": 16, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "downsample_padding": padding,
        }  # fmt: skip
        inputs = (torch.zeros(1, 3, 16, 16), torch.tensor([10.0]))
        yield from each_form(
            f"UNet2DModel of two inputs, padding {padding}", lambda u=unet: diffusers.UNet2DModel(**u), 2, inputs
        )


# --- written by hand -------------------------------------------------------------------------------------------


def by_hand() -> Iterator[Case]:
    z = torch.zeros(2, 10)
    for how in ("unflatten", "last", "view", "norm", "functional"):
        yield from each_form(f"generator by {how}", lambda h=how: Generator(h), 2, z)
    generator = lambda: Generator("unflatten")  # noqa: E731
    yield "generator, 1.5, nearest", lambda: planned(generator, 1.5, z, method="nearest")
    yield "generator, dilate", lambda: planned(generator, 2, z, method="dilate")
    yield "generator, absorbing", lambda: planned(generator, 2, z, modes={"read": "absorb"})
    yield "generator, excluded", lambda: planned(generator, 2, z, exclude=["read.weight"])
    x = torch.zeros(1, 3, 16, 16)
    for single in (False, True):
        yield from each_form(f"autoencoder, single {single}", lambda s=single: Autoencoder(s), 2, x)
    for grid, prefix in (((4, 4), 1), ((3, 5), 0), ((4, 6), 3)):
        image = torch.zeros(1, 3, 4 * grid[0], 4 * grid[1])
        build = lambda g=grid, p=prefix: Tokens(g, p)  # noqa: E731
        yield f"tokens {grid} behind {prefix}", lambda b=build, i=image: planned(b, 2, i)
        for method, scale in (("optimal", 2), ("dilate", (2, 1)), ("linear", 2), ("pinv-cubic", 2)):
            yield (
                f"tokens {grid} behind {prefix}, growing {scale}, {method}",
                lambda b=build, i=image, m=method, s=scale: planned(b, s, i, modes={"patch": "supersample"}, method=m),
            )
    yield from each_form("tied", Tied, 2, x)
    pooled = lambda: Net(lambda m, x: m.c(F.adaptive_avg_pool2d(m.c(x), 8)), c=conv())  # noqa: E731
    yield "one weight at two scales", lambda: planned(pooled, 2, x)
    twice = lambda: Net(lambda m, x: m.d(m.c(m.d(m.c(x)))), c=conv(), d=conv(stride=2))  # noqa: E731
    yield "one weight on two grids", lambda: planned(twice, 2, x)
    for kind in (Same, Mirrored):
        yield from each_form(f"a {kind.__name__} convolution", lambda k=kind: nn.Sequential(k(3, 3, 3, 2)), 2, x)
    y = torch.zeros(1, 4, 12, 12)
    for mode, pad in itertools.product(
        ("constant", "reflect", "replicate", "circular"), ((0, 1, 0, 1), (1, 1, 0, 1), (1, 1, 1, 1))
    ):
        for form, method in (("dense", "cubic"), ("factored", "cubic"), ("dense", "optimal"), ("dense", "dilate")):
            yield (
                f"padded by hand {mode} {pad}, {form}, {method}",
                lambda m=mode, p=pad, f=form, n=method: planned(padded(m, p), 2, y, form=f, method=n),
            )
    yield from each_form("padded by hand, cropped", padded("constant", (-1, 2, -1, 2)), 2, y)
    yield from each_form("padded by hand, stride 1", padded("reflect", (2, 2, 2, 2), 5, 1), 3, y)
    ring = lambda: nn.Sequential(nn.CircularPad2d(1), nn.Conv2d(4, 4, 3))  # noqa: E731
    yield from each_form("padded by a layer", ring, 2, y)
    notices = {
        "functional pooling": lambda: Net(lambda m, x: F.avg_pool2d(m.c(x), 2), c=conv()),
        "a computed weight": lambda: Net(lambda m, x: F.conv2d(x, m.c.weight * 2, padding=1), c=conv()),
        "a functional convolution": lambda: Net(lambda m, x: F.conv2d(m.c(x), m.c.weight, padding=1), c=conv()),
        "a weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), nn.ReLU(), conv()),
        "a spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(conv()), nn.ReLU(), conv()),
        "an odd order": lambda: Net(
            lambda m, x: m.read(m.c(x).permute(0, 3, 1, 2).flatten(1)), c=conv(), read=nn.Linear(768, 4)
        ),
        "a pooling behind padding": lambda: Net(
            lambda m, x: m.p(F.pad(m.c(x), (1, 1, 1, 1))), c=conv(), p=nn.MaxPool2d(3, 2)
        ),
        "a fixed interpolation": lambda: Net(
            lambda m, x: m.d(F.interpolate(m.c(x), size=(20, 20))), c=conv(), d=conv()
        ),
        "a fixed upsample": lambda: nn.Sequential(conv(), nn.Upsample(size=(20, 20)), conv()),
        "a free upsample": lambda: nn.Sequential(conv(), nn.Upsample(scale_factor=2), conv()),
        "pixel shuffle": lambda: nn.Sequential(conv(), nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2), conv()),
        "a skip": lambda: Net(lambda m, x: m.b(torch.cat([m.a(x), x], 1)), a=conv(), b=nn.Conv2d(6, 3, 3, padding=1)),
        "an excitation": lambda: Net(
            lambda m, x: m.b(m.a(x) * m.fc(m.a(x).mean((2, 3))).sigmoid()[:, :, None, None]),
            a=conv(), b=conv(), fc=nn.Linear(3, 3),
        ),
        "channels last": lambda: Net(
            lambda m, x: m.read(x.permute(0, 2, 3, 1).reshape(len(x), -1)), read=nn.Linear(768, 5)
        ),
    }  # fmt: skip
    for title, build in notices.items():
        yield title, lambda b=build: planned(b, 2, x)
        yield f"{title}, factored", lambda b=build: planned(b, 2, x, form="factored")


def layers() -> Iterator[Case]:
    """Single layers of one, two and three dimensions."""
    for dims in (1, 2, 3):
        kind, turned = getattr(nn, f"Conv{dims}d"), getattr(nn, f"ConvTranspose{dims}d")
        x = torch.zeros(1, 4, *(12,) * dims)
        rows: list[tuple[str, Callable[[], nn.Module]]] = []
        for k, stride, padding, dilation, groups in (
            (3, 1, 1, 1, 1), (3, 2, 1, 1, 4), (4, 2, 1, 1, 1), (2, 2, 0, 1, 1), (1, 2, 0, 1, 1), (5, 1, "same", 1, 1),
            (4, 1, "same", 1, 1), (3, 1, 2, 2, 1), (7, 2, 3, 1, 1), (3, 3, 0, 2, 1),
        ):  # fmt: skip
            options = {"padding": padding, "dilation": dilation, "groups": groups}
            rows.append((f"conv k{k} s{stride} p{padding} d{dilation} g{groups}",
                         lambda k=k, s=stride, o=options, c=kind: c(4, 4, k, s, **o)))  # fmt: skip
        for k, stride, padding, extra, dilation in (
            (4, 2, 1, 0, 1), (3, 2, 1, 1, 1), (3, 1, 1, 0, 1), (2, 2, 0, 0, 1), (3, 2, 0, 0, 2), (4, 1, 0, 0, 1),
            (5, 3, 2, 1, 1),
        ):  # fmt: skip
            options = {"padding": padding, "output_padding": extra, "dilation": dilation}
            rows.append((f"transposed k{k} s{stride} p{padding} e{extra} d{dilation}",
                         lambda k=k, s=stride, o=options, c=turned: c(4, 4, k, s, **o)))  # fmt: skip
        for title, build in rows:
            for form, method, scale in itertools.product(
                ("dense", "factored"), ("optimal", "cubic", "dilate"), (2, 3) if dims == 2 else (2,)
            ):
                yield (
                    f"{dims}-D {title}, {form}, {method}, {scale}",
                    lambda b=build, x=x, f=form, m=method, s=scale: planned(b, s, x, form=f, method=m),
                )
        modes = [(f"{dims}-D {mode}", lambda m=mode, c=kind: c(4, 4, 3, 2, 1, padding_mode=m))
                 for mode in ("reflect", "replicate", "circular")]  # fmt: skip
        for title, build in modes:
            yield from each_form(title, build, 2, x)
        if dims == 2:
            for scale, taps in itertools.product((2, 1.5), ("full", "same-extent", 5, 6)):
                yield (
                    f"taps {taps}, scale {scale}",
                    lambda s=scale, t=taps, x=x: planned(lambda: nn.Conv2d(4, 4, 3, 2, 1), s, x, taps=t),
                )
            for method in ("optimal-filter", "nearest", "linear", "lanczos3", "area"):
                yield from each_form(f"2-D, {method}", lambda: nn.Conv2d(4, 4, 3, 2, 1), 2, x, method=method)
            for mode, k, stride in itertools.product(("absorb", "supersample"), (3, 4), (2, 4)):
                build = lambda k=k, s=stride: nn.Conv2d(4, 4, k, s, k // 2 if k == 3 else 0)  # noqa: E731
                yield from each_form(f"2-D {mode} k{k} s{stride}", build, 2, x, modes={"*": mode})
            yield (
                "gain, a and smoothness",
                lambda x=x: planned(
                    lambda: nn.Conv2d(4, 4, 3, 2, 1), 2, x, method="cubic", gain="ratio", a=-0.75, smoothness=0.1
                ),
            )
            yield "scale 1", lambda x=x: planned(lambda: nn.Conv2d(4, 4, 3, 2, 1), 1, x)
            yield "shrinking", lambda x=x: planned(lambda: nn.Conv2d(4, 4, 7, 1, 3), 0.5, x)
    volume = torch.zeros(1, 4, 6, 8, 8)
    build = lambda: nn.Conv3d(4, 3, (3, 3, 1), (2, 2, 2), (1, 1, 0))  # noqa: E731
    yield from each_form("3-D, an axis that keeps its scale", build, (1, 2, 3), volume)


def stacks() -> Iterator[Case]:
    """Sequences of layers, pools among them."""
    x = torch.zeros(1, 3, 16, 16)

    def cnn() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, 2, 1, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip

    def classifier() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, groups=2),
            nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.GroupNorm(2, 8), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(8 * 4, 5),
        )  # fmt: skip

    def wide() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
            nn.Conv2d(16, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 3, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(256, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8),
        )  # fmt: skip

    for title, build in (("CNN", cnn), ("classifier", classifier), ("wide", wide)):
        yield from each_form(title, build, 2, x)
        for scale in (3, 1.5, (2, 1)):
            yield f"{title}, scale {scale}", lambda b=build, s=scale: planned(b, s, x)
        yield f"{title}, on meta", lambda b=build: planned(_on_meta(b), 2, x)
        yield f"{title}, half precision", lambda b=build: planned(lambda: b().to(torch.bfloat16), 2, x.bfloat16())
    for name in ("0.weight", "3.weight", "0.*"):
        yield f"classifier without {name}", lambda n=name: planned(classifier, 2, x, exclude=[n])
    yield "classifier, absorbing", lambda: planned(classifier, 2, x, modes={"0": "absorb", "*": "supersample"})
    for dims in (1, 2, 3):
        size = torch.zeros(1, 4, *(12,) * dims)
        for kind, options in itertools.product(
            ("MaxPool", "AvgPool"), ((2,), (3, 2, 1), (3, 1, 1), (2, 1), (3, 3), (5, 2, 2))
        ):
            for scale in (2, 3) if dims == 2 else (2,):
                build = lambda d=dims, k=kind, o=options: nn.Sequential(  # noqa: E731
                    getattr(nn, f"Conv{d}d")(4, 4, 1), getattr(nn, f"{k}{d}d")(*o)
                )
                title = f"{dims}-D {kind} {options}, scale {scale}"
                yield title, lambda b=build, s=scale, z=size: planned(b, s, z)
    y = torch.zeros(1, 4, 12, 12)
    for options in ({"dilation": 2}, {"ceil_mode": True}, {"return_indices": False}):
        yield f"MaxPool2d {options}", lambda o=options: planned(lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1, **o)), 2, y)
    for options in ({"ceil_mode": True}, {"count_include_pad": False}, {"divisor_override": 3}):
        yield f"AvgPool2d {options}", lambda o=options: planned(lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1, **o)), 2, y)
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(2)):
        yield f"{type(pool).__name__}, scale 1.5", lambda p=pool: planned(lambda: nn.Sequential(conv(), p), 1.5, x)
        yield f"{type(pool).__name__}, scale (2, 1)", lambda p=pool: planned(lambda: nn.Sequential(p), (2, 1), x)


def _on_meta(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def empty() -> nn.Module:
        with torch.device("meta"):
            return build()

    return empty


def cases(folder: Path) -> Iterator[Case]:
    """All of them; `folder` is not needed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from zoo()
        yield from libraries()
        yield from by_hand()
        yield from layers()
        yield from stacks()
    finally:
        torch.set_num_threads(threads)
