"""Real architectures: small ones run at the new size layer by layer, Stable Diffusion's UNets at full size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.torch import load_file, save_file

from rekernel import convert, inspect, plan_checkpoint, pool_geometry, resample_conv
from rekernel.checkpoint.shard import shard_of_file
from rekernel.checkpoint.writer import StreamingWriter

from ..numeric import assert_bits, assert_ulps

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
nn = torch.nn

ROOT = Path(__file__).parents[2]
SEED = 3
SUPERSAMPLE = {"mode": "supersample", "method": "optimal"}


class Rescaled(nn.Module):
    """A convolution as a plan describes it: padding by hand, for it may differ from side to side."""

    def __init__(self, old, weight, geometry):
        super().__init__()
        self.weight, self.bias, self.groups = nn.Parameter(weight), old.bias, old.groups
        self.stride = tuple(g.stride for g in geometry)
        self.dilation = tuple(g.dilation for g in geometry)
        self.sides = [side for g in reversed(geometry) for side in g.padding]
        assert tuple(weight.shape[2:]) == tuple(g.kernel for g in geometry)

    def forward(self, x):
        padded = nn.functional.pad(x, self.sides)
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def rescaled(model, plan, weights):
    """`model` with every changed convolution replaced; all other weights loaded as they are."""
    changed = {change.name: change for change in plan.changed}
    for name, change in changed.items():
        if not change.new_geometry:
            continue
        path, _, attribute = name.removesuffix(".weight").rpartition(".")
        parent = model.get_submodule(path)
        if type(parent).__name__ == "Downsample2D" and parent.padding == 0:
            parent.padding = 1  # else it would pad by hand, as the plan's geometry now does
        setattr(parent, attribute, Rescaled(getattr(parent, attribute), weights[name], change.new_geometry))
    model.load_state_dict(weights, strict=True)
    return model


def sizes_of(model, run):
    """Output size of every convolution and of every block, by name."""
    sizes, handles = {}, []

    def note(name):
        def hook(module, inputs, output):
            out = output[0] if isinstance(output, tuple) else output
            if isinstance(out, torch.Tensor) and out.ndim == 4:
                sizes[name] = tuple(out.shape[-2:])

        return hook

    for name, module in model.named_modules():
        # Not the leaves between the convolutions: ConvNeXt's see the channels last.
        if any(isinstance(inner, nn.Conv2d | Rescaled) for inner in module.modules()):
            handles.append(module.register_forward_hook(note(name)))
    with torch.no_grad():
        result = run(model)
    for handle in handles:
        handle.remove()
    return sizes, result


UNET = {"sample_size": 16, "block_out_channels": (32, 64, 64), "layers_per_block": 1}
CONDITIONAL = UNET | {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
}
PLAIN = UNET | {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
VAE = {
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 2, 1]}


def pixels(model, size, channels=3):
    x = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(SEED))
    return model(x) if not isinstance(model, diffusers.UNet2DModel) else model(x, 10).sample


def pooled(model, scales):
    """Max pooling has no weights: dilated by the scale, as the plan's note says, and padded as `pool_geometry` does."""
    pool = model.embedder.pooler
    old = {"stride": pool.stride, "padding": pool.padding}
    high, wide = (pool_geometry(pool.kernel_size, "max", **old, scale_in=float(s)) for s in scales)
    # By hand: torch's own padding stops at half the kernel, before its dilation.
    pad = nn.ConstantPad2d((*wide.padding, *high.padding), -torch.inf)
    dilation = (high.dilation, wide.dilation)
    model.embedder.pooler = nn.Sequential(pad, nn.MaxPool2d(high.taps, high.stride, dilation=dilation))
    return model


def as_it_is(model, scales):
    return model


MODELS = {
    "UNet2DConditionModel": (
        lambda: diffusers.UNet2DConditionModel(**CONDITIONAL),
        lambda m, size: m(torch.ones(1, 4, *size), 10, torch.ones(1, 3, 16)).sample,
        16, ("inner", "all"), as_it_is,
    ),
    "UNet2DModel": (lambda: diffusers.UNet2DModel(**PLAIN), pixels, 16, ("inner", "all"), as_it_is),
    "AutoencoderKL": (
        lambda: diffusers.AutoencoderKL(**VAE), lambda m, size: pixels(m, size).sample, 16, ("all",), as_it_is,
    ),
    "ConvNeXt": (
        lambda: transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1] * 4)),
        pixels, 64, ("all",), as_it_is,
    ),
    "ResNet, bottleneck": (
        lambda: transformers.ResNetModel(transformers.ResNetConfig(**RESNET)), pixels, 64, ("all",), pooled,
    ),
    "ResNet, basic": (
        lambda: transformers.ResNetModel(transformers.ResNetConfig(**RESNET, layer_type="basic")),
        pixels, 64, ("all",), pooled,
    ),
}  # fmt: skip
CASES = [(name, preset) for name, parts in MODELS.items() for preset in parts[3]]


@pytest.mark.parametrize("scale", [2, (2, 1), 3])
@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_converted_model_runs_at_the_new_size_with_every_map_scaled(name, preset, scale, tmp_path):
    build, run, size, _, finish = MODELS[name]
    torch.manual_seed(SEED)
    model = build().eval()
    before, reference = sizes_of(model, lambda m: run(m, (size, size)))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "in.safetensors", {"format": "pt"})
    report = convert(
        tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=scale, preset=preset, **SUPERSAMPLE
    )
    plan = report.plans[""]
    geometries = {c.name: c.new_geometry for c in inspect(tmp_path / "out.safetensors").recipe.plan.changes}
    assert geometries == {c.name: c.new_geometry for c in plan.changed} and len(geometries) >= 7
    weights = load_file(tmp_path / "out.safetensors")
    assert all(tuple(weights[c.name].shape) == c.new_shape for c in plan.changes)
    high, wide = scale if isinstance(scale, tuple) else (scale, scale)
    larger = finish(rescaled(model, plan, weights), (high, wide))
    after, result = sizes_of(larger, lambda m: run(m, (size * high, size * wide)))
    assert len(before) >= 8
    pointwise = {(1, 1)}  # global pooling
    expected = {n: (h * high, w * wide) if (h, w) not in pointwise else (h, w) for n, (h, w) in before.items()}
    assert {name: after[name] for name in before} == expected
    result, reference = (getattr(r, "last_hidden_state", r) for r in (result, reference))
    assert torch.isfinite(result).all()
    assert tuple(result.shape[-2:]) == tuple(n * s for n, s in zip(reference.shape[-2:], (high, wide), strict=True))


@pytest.mark.parametrize("kind", ["ViT", "Dinov2"])
def test_a_vision_transformer_reads_a_larger_image_as_the_same_tokens(kind, tmp_path):
    torch.manual_seed(SEED)
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}

    def build(image, patch):
        made = getattr(transformers, f"{kind}Config")(**config, image_size=image, patch_size=patch)
        return getattr(transformers, f"{kind}Model")(made).eval()

    model = build(32, 8)
    save_file(model.state_dict(), tmp_path / "in.safetensors", {"format": "pt"})
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, method="nearest")
    larger = build(64, 16)
    larger.load_state_dict(load_file(tmp_path / "out.safetensors"))
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        old = model(image).last_hidden_state
        new = larger(image.repeat_interleave(2, -1).repeat_interleave(2, -2)).last_hidden_state
    torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)  # nearest patches on a doubled image: the same numbers


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
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_memory(*args):
    """Peak resident bytes of a run of the command.

    Through a small process between: a child's peak counts its parent's memory until it has become another program.
    """
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}"}
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-m", "rekernel_cli", *map(str, args)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def write_random(path, shapes):
    """fp16 weights of these shapes, streamed; one block of noise serves all."""
    noise = (np.random.default_rng(SEED).standard_normal(1 << 22) * 0.02).astype(np.float16)
    with StreamingWriter(path, [(name, "F16", shape) for name, shape in shapes.items()], {"format": "pt"}) as writer:
        for i, (name, info) in enumerate(writer.tensors.items()):
            for start in range(0, info.nbytes, noise.nbytes):
                length = min(noise.nbytes, info.nbytes - start)
                writer.write_at(name, start, np.roll(noise, 31 * i).tobytes()[:length])


def write_checkpoint(folder, shapes, shards):
    folder.mkdir()
    if shards == 1:
        write_random(folder / "diffusion_pytorch_model.safetensors", shapes)
        return
    weight_map, names = {}, list(shapes)
    for i in range(shards):
        file = f"diffusion_pytorch_model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        write_random(folder / file, {name: shapes[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(index)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shards", "parameters"),
    [({"cross_attention_dim": 768}, 1, 859_520_964), (SDXL, 3, 2_567_463_684)],
    ids=["SD1.5", "SDXL"],
)
def test_stable_diffusion_at_full_size_converts_in_little_memory(config, shards, parameters, tmp_path):
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters
    modules = dict(model.named_modules())
    source, target = tmp_path / "in", tmp_path / "out"
    try:
        write_checkpoint(source, shapes, shards)
        plan = plan_checkpoint(source, 2)
        peak = peak_memory("convert", source, target, "--scale", 2, "--quiet")
        largest = max(2 * int(np.prod(change.new_shape)) for change in plan.changes)
        assert peak < 250e6 + 2 * largest, f"{peak / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB"
        found = {}
        for path in sorted(target.glob("*.safetensors")):
            with safetensors.safe_open(path, "np") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
                assert opened.metadata()["format"] == "pt"
        assert len(list(target.glob("*.safetensors"))) == shards
        assert found == {change.name: change.new_shape for change in plan.changes}
        assert inspect(target).recipe.plan.changes == plan.changed
        for change in plan.changed:
            conv = modules[change.name.removesuffix(".weight")]
            assert [(g.kernel, g.stride, g.padding) for g in change.geometry] == [
                (k, s, (p, p)) for k, s, p in zip(conv.kernel_size, conv.stride, conv.padding, strict=True)
            ]
            assert change.new_shape[2:] == tuple(g.kernel for g in change.new_geometry)
        check_samples(source, target, plan)
    finally:  # gigabytes
        for path in [*source.glob("*"), *target.glob("*")]:
            path.unlink()


def check_samples(source, target, plan):
    """A few tensors, small and large, against the library."""
    home = {name: path.name for path in source.glob("*.safetensors") for name in shard_of_file(path).header.tensors}
    changed = sorted(plan.changed, key=lambda c: int(np.prod(c.shape)))
    kept = next(c for c in plan.changes if c.kept and len(c.shape) == 2)
    for change in (changed[0], changed[len(changed) // 2], changed[-1], kept):
        with safetensors.safe_open(source / home[change.name], "np") as opened:
            old = opened.get_tensor(change.name)
        with safetensors.safe_open(target / home[change.name], "np") as opened:
            new = opened.get_tensor(change.name)
        if change.kept:
            assert_bits(new, old, change.name)
            continue
        phase = [o.phase for o in change.operators]
        expected = resample_conv(old[:4], 2, taps=[o.new for o in change.operators], phase=phase)
        assert_ulps(new[:4], expected, what=change.name)
