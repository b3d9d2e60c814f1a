"""Weights of Flax, Keras and MLX through the command, run by the libraries themselves.

What is compared is the network in its own framework with PyTorch's, converted apart from it in PyTorch's layout: both
come from one set of numbers, and neither conversion sees the other.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from rekernel import plan_checkpoint
from rekernel_cli.main import main

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
nn = torch.nn

SIDE, CLASSES, SCALE = 8, 5, 2
SUPERSAMPLE = ("--mode", "supersample", "--method", "optimal")


def run(*args):
    result = CliRunner().invoke(main, ["convert", *map(str, args), "--scale", str(SCALE), *SUPERSAMPLE, "--quiet"])
    assert result.exit_code == 0, result.output + result.stderr


class Net(nn.Module):
    """Two convolutions, the second grouped or strided, and a linear layer that reads the grid channels last."""

    def __init__(self, groups=1):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 4 if groups == 1 else 6, 5, padding=2, groups=groups)
        self.fc = nn.Linear(self.conv2.out_channels * SIDE * SIDE, CLASSES)

    def forward(self, x):
        y = self.conv2(torch.relu(self.conv1(x)))
        return self.fc(y.permute(0, 2, 3, 1).reshape(len(y), -1))


def tensors_of(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def pytorchs(weights, tmp_path, groups):
    """The rescaled network in PyTorch: kernels and paddings of the plan."""
    save_file(weights, tmp_path / "pt.safetensors", metadata={"format": "pt"})
    grid = f"fc={weights['conv2.weight'].shape[0]},{SIDE},{SIDE}"
    run(
        tmp_path / "pt.safetensors",
        tmp_path / "pt-2x.safetensors",
        "--linear-grid",
        grid,
        "--order",
        "fc=channels-last",
    )
    new = load_file(tmp_path / "pt-2x.safetensors")
    model = Net(groups)
    for name in ("conv1", "conv2"):
        k = new[f"{name}.weight"].shape[-1]
        old = getattr(model, name)
        setattr(
            model,
            name,
            nn.Conv2d(old.in_channels, old.out_channels, k, padding=k // 2, groups=groups if name == "conv2" else 1),
        )
    model.fc = nn.Linear(new["fc.weight"].shape[1], CLASSES)
    model.load_state_dict({n: torch.from_numpy(v) for n, v in new.items()})
    return model


@pytest.fixture(params=[1, 2], ids=["plain", "grouped"])
def both(request, tmp_path):
    """The original's weights, images of the new size, and what PyTorch's rescaled network says of them."""
    torch.manual_seed(0)
    weights = tensors_of(Net(request.param))
    images = torch.randn(2, 3, SIDE * SCALE, SIDE * SCALE)
    with torch.no_grad():
        said = pytorchs(weights, tmp_path, request.param)(images).numpy()
    return weights, images.permute(0, 2, 3, 1).numpy(), said, request.param


def test_flax(both, tmp_path):
    fl = pytest.importorskip("flax.linen")
    from flax.traverse_util import flatten_dict, unflatten_dict
    from safetensors.flax import load_file as load_flax
    from safetensors.flax import save_file as save_flax

    weights, images, said, groups = both

    class FlaxNet(fl.Module):
        kernel: int = 3
        second: int = 5

        @fl.compact
        def __call__(self, x):
            x = fl.relu(fl.Conv(6, (self.kernel,) * 2, name="conv1")(x))
            out = 4 if groups == 1 else 6
            x = fl.Conv(out, (self.second,) * 2, feature_group_count=groups, name="conv2")(x)
            return fl.Dense(CLASSES, name="fc")(x.reshape(x.shape[0], -1))

    params = jax.eval_shape(FlaxNet().init, jax.random.key(0), jax.numpy.zeros((1, SIDE, SIDE, 3)))
    flat = flatten_dict(params, sep="/")
    ours = {
        f"params/{n.replace('.weight', '/kernel').replace('.bias', '/bias')}":
        jax.numpy.asarray(v.transpose(2, 3, 1, 0) if v.ndim == 4 else v.T) for n, v in weights.items()
    }  # fmt: skip
    assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in flat.items()}
    save_flax(ours, tmp_path / "flax.safetensors", metadata={"format": "flax"})
    channels = weights["conv2.weight"].shape[0]
    run(
        tmp_path / "flax.safetensors",
        tmp_path / "out.safetensors",
        "--linear-grid",
        f"params/fc={channels},{SIDE},{SIDE}",
    )
    new = load_flax(tmp_path / "out.safetensors")
    kernels = [new[f"params/conv{i}/kernel"].shape[0] for i in (1, 2)]
    answer = FlaxNet(*kernels).apply(unflatten_dict(new, sep="/"), images)
    assert kernels[0] > 3 and np.allclose(answer, said, atol=1e-4)


def test_keras(both, tmp_path):
    keras = pytest.importorskip("keras")
    weights, images, said, groups = both

    def build(side, kernels):
        out = 4 if groups == 1 else 6
        layers = keras.layers
        return keras.Sequential([
            keras.Input((side, side, 3)), layers.Conv2D(6, kernels[0], padding="same", activation="relu", name="conv1"),
            layers.Conv2D(out, kernels[1], padding="same", groups=groups, name="conv2"), layers.Flatten(),
            layers.Dense(CLASSES, name="fc"),
        ])  # fmt: skip

    model = build(SIDE, (3, 5))
    ours = {}
    for v in model.weights:
        layer, leaf = v.path.split("/")[-2:]
        value = weights[f"{layer}.{'weight' if leaf == 'kernel' else leaf}"]
        ours[v.path] = np.ascontiguousarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T)
        assert ours[v.path].shape == tuple(v.shape)
    save_file(ours, tmp_path / "keras.safetensors")
    grid = f"*fc={weights['conv2.weight'].shape[0]},{SIDE},{SIDE}"
    run(tmp_path / "keras.safetensors", tmp_path / "out.safetensors", "--layout", "HWIO", "--linear-grid", grid)
    new = load_file(tmp_path / "out.safetensors")
    by_layer = {tuple(n.split("/")[-2:]): v for n, v in new.items()}
    kernels = [by_layer[f"conv{i}", "kernel"].shape[0] for i in (1, 2)]
    larger = build(SIDE * SCALE, kernels)
    larger.set_weights([by_layer[tuple(v.path.split("/")[-2:])] for v in larger.weights])
    assert kernels[0] > 3 and np.allclose(larger(images).detach().numpy(), said, atol=1e-4)


def test_mlx(both, tmp_path):
    mx = pytest.importorskip("mlx.core")
    mlx = pytest.importorskip("mlx.nn")
    weights, images, said, groups = both

    class MLXNet(mlx.Module):
        def __init__(self, side, kernels):
            super().__init__()
            out = 4 if groups == 1 else 6
            self.conv1 = mlx.Conv2d(3, 6, kernels[0], padding=kernels[0] // 2)
            self.conv2 = mlx.Conv2d(6, out, kernels[1], padding=kernels[1] // 2, groups=groups)
            self.fc = mlx.Linear(out * side * side, CLASSES)

        def __call__(self, x):
            x = self.conv2(mlx.relu(self.conv1(x)))
            return self.fc(x.reshape(x.shape[0], -1))

    ours = {n: mx.array(v.transpose(0, 2, 3, 1) if v.ndim == 4 else v) for n, v in weights.items()}
    model = MLXNet(SIDE, (3, 5))
    model.load_weights(list(ours.items()))  # as strict as it is: names and shapes fit
    mx.save_safetensors(str(tmp_path / "mlx.safetensors"), ours, {"format": "mlx"})
    channels = weights["conv2.weight"].shape[0]
    run(tmp_path / "mlx.safetensors", tmp_path / "out.safetensors", "--linear-grid", f"fc={channels},{SIDE},{SIDE}")
    new = mx.load(str(tmp_path / "out.safetensors"))
    kernels = [new[f"conv{i}.weight"].shape[1] for i in (1, 2)]
    larger = MLXNet(SIDE * SCALE, kernels)
    larger.load_weights(list(new.items()))
    assert kernels[0] > 3 and np.allclose(np.asarray(larger(mx.array(images))), said, atol=1e-4)


@pytest.mark.parametrize(("dims", "window"), [(1, "W"), (3, "DHW")])
def test_flax_convolutions_of_other_dimensions(dims, window, tmp_path):
    fl = pytest.importorskip("flax.linen")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3) + (3,) * dims).astype(np.float32)
    order = (*range(2, 2 + dims), 1, 0)
    bias = rng.standard_normal(4).astype(np.float32)
    save_file(
        {"conv/kernel": np.ascontiguousarray(w.transpose(order)), "conv/bias": bias}, tmp_path / "flax.safetensors"
    )
    run(tmp_path / "flax.safetensors", tmp_path / "flax-2x.safetensors", "--layout", "HWIO")
    save_file({"conv.weight": w, "conv.bias": bias}, tmp_path / "pt.safetensors")
    run(tmp_path / "pt.safetensors", tmp_path / "pt-2x.safetensors")
    theirs, ours = load_file(tmp_path / "flax-2x.safetensors"), load_file(tmp_path / "pt-2x.safetensors")
    k = ours["conv.weight"].shape[-1]
    x = rng.standard_normal((1, 3) + (10,) * dims).astype(np.float32)
    conv = getattr(nn.functional, f"conv{dims}d")
    said = conv(*(torch.from_numpy(t) for t in (x, ours["conv.weight"], bias)), padding=k // 2).numpy()
    params = {"params": {"kernel": theirs["conv/kernel"], "bias": theirs["conv/bias"]}}
    answer = fl.Conv(4, (k,) * dims).apply(params, np.moveaxis(x, 1, -1))
    assert k > 3 and np.allclose(np.moveaxis(np.asarray(answer), -1, 1), said, atol=1e-5)


FLAX_UNET = {
    "conv_in/kernel": (3, 3, 4, 8), "time_embedding/linear_1/kernel": (8, 8),
    "down_blocks_0/resnets_0/conv1/kernel": (3, 3, 8, 8), "down_blocks_0/downsamplers_0/conv/kernel": (3, 3, 8, 8),
    "down_blocks_1/resnets_0/conv1/kernel": (3, 3, 8, 16), "mid_block/resnets_0/conv1/kernel": (3, 3, 16, 16),
    "up_blocks_0/resnets_0/conv1/kernel": (3, 3, 16, 16), "up_blocks_1/resnets_0/conv1/kernel": (3, 3, 16, 8),
    "down_blocks_1/attentions_0/proj_in/kernel": (1, 1, 16, 16),
}  # fmt: skip


def test_a_flax_unet_is_of_the_family_with_its_strides_and_presets(tmp_path):
    flax = {n: np.ones(s, np.float32) for n, s in FLAX_UNET.items()}
    save_file(flax, tmp_path / "flax.safetensors", metadata={"format": "flax"})
    plan = plan_checkpoint(tmp_path / "flax.safetensors", scale=2)
    assert plan.family == "diffusers UNet"
    changed = {c.name: c for c in plan.changed}
    assert changed.keys() == {n for n in flax if "blocks_0/r" not in n or "up" in n} - {
        "conv_in/kernel", "time_embedding/linear_1/kernel", "up_blocks_1/resnets_0/conv1/kernel",
        "down_blocks_1/attentions_0/proj_in/kernel",
    }  # fmt: skip
    assert changed["down_blocks_0/downsamplers_0/conv/kernel"].geometry[0].stride == 2
    assert changed["mid_block/resnets_0/conv1/kernel"].new_shape == (5, 5, 16, 16)


def test_attention_kernels_with_an_axis_for_heads_are_no_convolutions(tmp_path):
    tensors = {
        "attn/query/kernel": np.ones((16, 4, 4), np.float32), "attn/query/bias": np.ones((4, 4), np.float32),
        "attn/out/kernel": np.ones((4, 4, 16), np.float32), "conv/kernel": np.ones((3, 3, 4, 4), np.float32),
    }  # fmt: skip
    save_file(tensors, tmp_path / "in.safetensors", metadata={"format": "flax"})
    assert [c.name for c in plan_checkpoint(tmp_path / "in.safetensors", scale=2).changed] == ["conv/kernel"]


def test_axes_last_in_a_file_that_does_not_say_so_are_noticed(tmp_path):
    save_file({"conv.weight": np.ones((64, 3, 3, 64), np.float32)}, tmp_path / "in.safetensors")
    plan = plan_checkpoint(tmp_path / "in.safetensors", scale=2)
    assert not plan.changed and any("layout={'conv': 'OHWI'}" in note for note in plan.warnings)


def test_one_turned_matrix_in_a_file_of_another_layout(tmp_path):
    """`--layout NAME=IO` for a matrix alone: the grid is then read along its first axis."""
    w = np.random.default_rng(0).standard_normal((CLASSES, 2 * 4 * 4)).astype(np.float32)
    save_file({"fc.weight": w}, tmp_path / "pt.safetensors")
    save_file({"fc.weight": np.ascontiguousarray(w.T)}, tmp_path / "turned.safetensors")
    run(tmp_path / "pt.safetensors", tmp_path / "pt-2x.safetensors", "--linear-grid", "fc=2,4,4")
    turned = ("--linear-grid", "fc=2,4,4", "--layout", "fc=IO")
    run(tmp_path / "turned.safetensors", tmp_path / "turned-2x.safetensors", *turned)
    ours, theirs = load_file(tmp_path / "pt-2x.safetensors"), load_file(tmp_path / "turned-2x.safetensors")
    assert np.allclose(ours["fc.weight"], theirs["fc.weight"].T, atol=1e-6)
