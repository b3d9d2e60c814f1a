"""Rescaled kernels lent to a network's calls: the same as `rekernel.torch.rescale`, and gone afterwards."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.diffusion import SupersampledKernels, UpsampleGuidance  # noqa: E402

THREE = {
    "block_out_channels": (8, 8, 8), "add_attention": False, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3,
}  # fmt: skip
INNER = ["down_blocks.1.*", "up_blocks.0.*", "mid_block.*", "*.downsamplers.*", "*.upsamplers.*"]


class Watch:
    """What stands in the layers' places whenever they are called: kernel size, dilation or filter."""

    def __init__(self, net):
        self.net, self.calls, self.handles = net, [], []

    def __enter__(self):
        for path, module in self.net.named_modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1):
                self.handles.append(module.register_forward_pre_hook(self._seen(path)))
        return self.calls

    def _seen(self, path):
        def see(module, args):
            lent = vars(module).get("forward")
            self.calls.append((path, args[0].shape[-1], None if lent is None else lent.new))

        return see

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def spread(layer):
    """By what a layer's kernel is enlarged."""
    if layer is None:
        return 1
    return layer.spread[0] if hasattr(layer, "spread") else (layer.kernel_size[0] - 1) // 2


def run(net, nets, size=16, t=500, batch=1, dtype=torch.float32):
    with torch.no_grad():
        return net(nets.noise(batch, 3, size, size, dtype=dtype), torch.tensor(t)).sample


def example(nets, size=8):
    return (nets.noise(2, 3, size, size), torch.tensor(500), nets.noise(2, 5, 8, seed=1))


@pytest.mark.parametrize("method", ["optimal", "dilate", "cubic"])
@pytest.mark.parametrize("layers", ["inner", "all", ("mid_block.*", "down_blocks.1.*")])
def test_lent_layers_are_those_of_rescale(nets, method, layers):
    include = {"inner": INNER, "all": ["*"]}.get(layers, layers)
    wanted = rkt.rescale(nets.unet, 2, example(nets), method=method, form="factored", include=list(include))
    with SupersampledKernels(2, layers, method).attach(nets.unet):
        found = nets.call(nets.unet)
    assert torch.allclose(found, nets.call(wanted), atol=1e-5)
    assert not torch.allclose(found, nets.call(nets.unet), atol=1e-3)


@pytest.mark.parametrize(("size", "scale"), [((20, 28), 2), ((52, 76), 2), ((36, 20), 4)])
def test_half_of_a_size_may_halve_unevenly_where_the_size_does_not(nets, size, scale):
    """SD 1.5 at 1216x832: 52 is odd after two halvings, 104 after three. The layers are those planned at any size."""
    net = nets.conditioned(
        block_out_channels=(8, 8, 8), down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3
    )
    wanted = rkt.rescale(net, scale, example(nets, 16), mode="supersample", method="optimal", form="factored")
    with SupersampledKernels(scale, "all").attach(net):
        found = nets.call(net, size=size)
    assert torch.allclose(found, nets.call(wanted, size=size), atol=1e-5)


def test_form_dense_at_a_broken_scale(nets):
    wanted = rkt.rescale(nets.unet, 1.5, example(nets), form="dense", include=INNER)
    with SupersampledKernels(1.5, form="dense").attach(nets.unet):
        found = nets.call(nets.unet, size=(12, 12))
    assert torch.allclose(found, nets.call(wanted, size=(12, 12)), atol=1e-5)
    with SupersampledKernels(1.5).attach(nets.unet):  # what cannot be factored is dense
        assert torch.allclose(nets.call(nets.unet, size=(12, 12)), found, atol=1e-5)


def test_no_second_copy_of_the_weights(nets):
    with SupersampledKernels(2, "all").attach(nets.unet), Watch(nets.unet) as calls:
        nets.call(nets.unet)
        modules = dict(nets.unet.named_modules())
        lent = [(path, new) for path, _, new in calls if new is not None]
        assert len({path for path, _ in lent}) > 8
        for path, new in lent:
            assert new.weight is modules[path].weight and new.bias is modules[path].bias
        own = {p.data_ptr() for p in nets.unet.parameters()}
        assert {p.data_ptr() for _, new in lent for p in new.parameters()} <= own
    assert sum(1 for _ in nets.unet.parameters()) == len(own)


def test_hooks_on_a_lent_layer_run_once(nets):
    count = Counter()
    conv = nets.unet.mid_block.resnets[0].conv1
    handles = [
        conv.register_forward_pre_hook(lambda *_: count.update(["before"])),
        conv.register_forward_hook(lambda *_: count.update(["after"])),
    ]
    try:
        with SupersampledKernels(2).attach(nets.unet):
            nets.call(nets.unet)
            count.clear()
            nets.call(nets.unet)
    finally:
        for handle in handles:
            handle.remove()
    assert count == {"before": 1, "after": 1}


def test_until_by_time_and_by_layer(nets):
    until = {"mid_block.*": 0.2, "re:down_blocks\\..*": 0.6}
    gates = {900: "all three", 500: "without the middle", 100: "the rest"}
    with SupersampledKernels(2, until=until).attach(nets.unet, scheduler=nets.ddim), Watch(nets.unet) as calls:
        for t, what in gates.items():
            nets.call(nets.unet, t=t)
            calls.clear()
            nets.call(nets.unet, t=t)
            lent = {path.split(".")[0] for path, _, new in calls if new is not None}
            wanted = {"up_blocks", "mid_block", "down_blocks"}
            wanted -= {"mid_block"} if t < 900 else set()
            wanted -= {"down_blocks"} if t < 500 else set()
            assert lent == wanted, what
    plain = nets.call(nets.unet, t=399)
    with SupersampledKernels(2, until=0.6).attach(nets.unet, scheduler=nets.ddim):
        assert torch.equal(nets.call(nets.unet, t=399), plain)
        assert not torch.equal(nets.call(nets.unet, t=400), nets.call(nets.conditioned(), t=400))


def test_progressive_shrinks_the_scale(nets):
    net = nets.unconditioned(**THREE)
    with (
        SupersampledKernels(4, until=0.8, progressive=True).attach(net, scheduler=nets.ddim),
        Watch(net) as calls,
    ):
        found = {}
        for t in (999, 700, 500, 250, 150):
            calls.clear()
            run(net, nets, 32, t)
            found[t] = {spread(new) for path, size, new in calls if path.startswith("mid_block") and size == 8}
    # Of the 0.8 that the kernels act: 4 to its first quarter's end, then 3, 2, and off.
    assert found == {999: {4}, 700: {3}, 500: {2}, 250: {2}, 150: {1}}


def test_nested_guidance_by_four_calls_each_level_with_its_own_kernels(nets):
    net = nets.unconditioned(**THREE)
    with (
        UpsampleGuidance(4).attach(net, scheduler=nets.ddim),
        SupersampledKernels(4).attach(net, scheduler=nets.ddim),
    ):
        run(net, nets, 32)
        with Watch(net) as calls, nets.passes(net) as sizes:
            run(net, nets, 32)
    assert sizes == [(32, 32), (16, 16), (8, 8)]
    middle = [spread(new) for path, _, new in calls if path == "mid_block.resnets.0.conv1"]
    finest = [spread(new) for path, _, new in calls if path == "conv_in"]
    assert middle == [4, 2, 1] and finest == [1, 1, 1]


def test_scale_auto_at_every_level(nets):
    net = nets.unconditioned(**THREE)
    with UpsampleGuidance().attach(net, scheduler=nets.ddim), SupersampledKernels().attach(net):
        run(net, nets, 32)
        with Watch(net) as calls:
            for size in (32, 16, 8):
                run(net, nets, size)
    middle = [spread(new) for path, _, new in calls if path == "mid_block.resnets.0.conv1"]
    assert middle == [4, 2, 1, 2, 1, 1]


def test_a_method_for_each_nested_scale(nets):
    net = nets.unconditioned(**THREE)
    with (
        UpsampleGuidance(4).attach(net, scheduler=nets.ddim),
        SupersampledKernels(4, method={4: "dilate", 2: "optimal"}).attach(net),
        Watch(net) as calls,
    ):
        run(net, nets, 32)
        calls.clear()
        run(net, nets, 32)
    top, below, trained = (new for path, _, new in calls if path == "mid_block.resnets.0.conv1")
    assert type(top) is torch.nn.Conv2d and top.dilation == (4, 4)
    assert all(below.blurred) and trained is None
    with SupersampledKernels(4, method={2: "optimal"}).attach(net):  # 4 is not named
        assert torch.equal(run(net, nets, 32), run(nets.unconditioned(**THREE), nets, 32))


def test_noise_damped_by_hand(nets):
    """ScaleCrafter's: eps(neg) + w (eps'(pos) - eps'(neg)), with the rescaled network primed."""
    plain = nets.call(nets.unet)
    with SupersampledKernels(2).attach(nets.unet):
        rescaled = nets.call(nets.unet)
    with SupersampledKernels(2, noise_damped=True).attach(nets.unet), nets.passes(nets.unet) as sizes:
        damped = nets.call(nets.unet)
        with pytest.raises(rk.RekernelError, match="negative and positive halves; this one has 3 samples"):
            nets.call(nets.unet, batch=3)
    assert sizes == [(8, 8), (16, 16), (16, 16)]  # once to plan; no pass for a batch that cannot be halved

    def combined(w, halves):
        return halves[0] + w * (halves[1] - halves[0])

    for w in (1.0, 7.5):
        wanted = plain[0] + w * (rescaled[1] - rescaled[0])
        assert torch.allclose(combined(w, damped), wanted, atol=1e-4)
    plain = nets.call(nets.unet, t=100)
    with SupersampledKernels(2, noise_damped=True, until=0.5).attach(nets.unet, scheduler=nets.ddim):
        with nets.passes(nets.unet) as sizes:
            assert torch.equal(nets.call(nets.unet, t=100), plain)
        assert len(sizes) == 1  # nothing to damp where no kernel is rescaled


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("form", ["factored", "dense"])
def test_precision_changed_after_attaching(nets, dtype, form):
    net = nets.unconditioned(**THREE)
    with SupersampledKernels(2, form=form).attach(net):
        before = run(net, nets)
        net.to(dtype)
        found = run(net, nets, dtype=dtype)
        net.float()
    assert found.dtype == dtype
    assert torch.allclose(found.float(), before, atol=1e-5 if dtype == torch.float64 else 0.05)


@pytest.mark.parametrize(("form", "method"), [("factored", "optimal"), ("dense", "optimal"), ("factored", "dilate")])
def test_weights_loaded_after_attaching(nets, form, method):
    net, other = nets.unconditioned(**THREE), nets.unconditioned(**THREE)
    for parameter in other.parameters():
        parameter.mul_(1.5)
    with SupersampledKernels(2, method=method, form=form).attach(other):
        wanted = run(other, nets)
    with SupersampledKernels(2, method=method, form=form).attach(net):
        run(net, nets)
        net.load_state_dict(other.state_dict())
        assert torch.equal(run(net, nets), wanted)
        for module in net.modules():  # other objects, as accelerate puts them
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(parameter * 0.5)
        halved = run(net, nets)
    with SupersampledKernels(2, method=method, form=form).attach(net):
        assert torch.equal(run(net, nets), halved)


def test_a_layer_exchanged_after_attaching(nets):
    net = nets.unconditioned(**THREE)
    with SupersampledKernels(2).attach(net):
        run(net, nets)
        torch.manual_seed(3)
        net.mid_block.resnets[0].conv1 = torch.nn.Conv2d(8, 8, 3, padding=1)
        found = run(net, nets)
    with SupersampledKernels(2).attach(net):
        assert torch.equal(run(net, nets), found)


@pytest.mark.parametrize("size", [20, 24, 36])
def test_sizes_that_halve_unevenly(nets, size):
    net = nets.unconditioned(**THREE)
    with SupersampledKernels(2).attach(net), UpsampleGuidance(2).attach(net, scheduler=nets.ddim):
        assert run(net, nets, size).shape == (1, 3, size, size)


def test_the_rescaled_network_as_predictor(nets):
    """SNR-matched: every kernel rescaled, at the full size, at tau; where its blur is the identity, it is itself."""
    net = nets.unconditioned(**THREE)
    inputs = nets.noise(1, 3, 8, 8), torch.tensor(5)
    wanted = rkt.rescale(net, 2, inputs, mode="supersample", method="optimal", form="factored")
    with nets.inputs(net) as seen, UpsampleGuidance(2, predictor="rescaled").attach(net, scheduler=nets.ddim):
        found = run(net, nets, t=700)
    (_, full), (_, below) = seen[0], seen[-1]
    assert below["sample"].shape == (1, 3, 16, 16) and 300 < below["timestep"].item() < 700
    ratio = below["sample"] / full["sample"]
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), atol=1e-4) and ratio.mean() > 1.1  # x over sqrt(P)
    with torch.no_grad():
        eps_low = wanted(below["sample"], below["timestep"]).sample
        eps = net(full["sample"], torch.tensor(700)).sample
    from rekernel.diffusion.formulas.blur_band import FilterSplit

    split = FilterSplit((16, 16), (2.0, 2.0))
    assert torch.allclose(found, eps + split.gain * eps_low - split.reduce_grid(eps), atol=1e-5)
    assert not any("forward" in vars(m) for m in net.modules())


def test_what_cannot_be_lent_is_refused_when_attaching(nets):
    with pytest.raises(
        rk.RekernelError, match=r"layers='outer' is not a preset of this UNet2DConditionModel \(it has: inner"
    ):
        SupersampledKernels(2, "outer").attach(nets.unet)
    with pytest.raises(rk.RekernelError, match=r"nothing\.\*"):
        SupersampledKernels(2, ["nothing.*"]).attach(nets.unet)
    assert "_diffusers_hook" not in vars(nets.unet)


def test_offloading_layer_by_layer_is_refused_by_name(nets):
    hooks = pytest.importorskip("accelerate.hooks")
    net = nets.unconditioned(**THREE)
    said = r"mid_block\.resnets\.0\.conv1: .*enable_model_cpu_offload instead"
    with SupersampledKernels(2).attach(net):
        run(net, nets)  # planned before
        hooks.add_hook_to_module(net.mid_block.resnets[0].conv1, hooks.ModelHook())
        kept = net.mid_block.resnets[0].conv1.forward
        with pytest.raises(rk.RekernelError, match=said):
            run(net, nets)
        assert net.mid_block.resnets[0].conv1.forward is kept  # and is not deleted
    with pytest.raises(rk.RekernelError, match=said):
        SupersampledKernels(2).attach(net)
    with SupersampledKernels(2, ["down_blocks.*"]).attach(net):  # other layers are free
        run(net, nets)
