"""Guidance and kernels on a compiled network: the hook outside, the network really compiled, the results the same."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from torch._dynamo.utils import counters  # noqa: E402

import rekernel as rk  # noqa: E402
from rekernel.diffusion import SupersampledKernels, UpsampleGuidance  # noqa: E402

SMALL = {
    "block_out_channels": (4,), "norm_num_groups": 2, "add_attention": False,
    "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
}  # fmt: skip


@pytest.fixture
def compiling():
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


class Pipe:
    """What guidance needs of a pipeline."""

    def __init__(self, unet):
        self.unet, self.scheduler = unet, diffusers.DDIMScheduler()


def run(net, nets, t, size=16):
    with torch.no_grad():
        return net(nets.noise(1, 3, size, size), torch.tensor(t)).sample


def attach(target):
    guidance = UpsampleGuidance(2, eta=0.8).attach(target)
    return guidance, SupersampledKernels(2, until=0.6).attach(target)


TIMES = (900, 100, 300, 850)  # both act, neither, guidance alone, both


def compiled_runs(nets, compiling, compile_it, backend):
    """The same steps eagerly and compiled; how often the network was compiled in the second round."""
    pipe = Pipe(nets.unconditioned(**SMALL))
    parts = attach(pipe)
    eager = [run(pipe.unet, nets, t) for t in TIMES]
    for part in parts:
        part.remove()
    untouched = run(pipe.unet, nets, 900)
    compile_it(pipe, backend)
    before = dict(vars(pipe.unet))
    assert torch.allclose(run(pipe.unet, nets, 900), untouched, atol=1e-5)
    assert compiling["stats"]["unique_graphs"] == 1 and not compiling["graph_break"]
    parts = attach(pipe)
    compiled = [run(pipe.unet, nets, t) for t in TIMES]
    for got, wanted in zip(compiled, eager, strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(compiled[0], untouched, atol=1e-3)
    graphs = compiling["stats"]["unique_graphs"]
    again = [run(pipe.unet, nets, t) for t in TIMES]
    assert compiling["stats"]["unique_graphs"] == graphs  # switching kernels on and off compiles nothing again
    assert all(torch.equal(a, b) for a, b in zip(again, compiled, strict=True))
    assert not compiling["graph_break"]
    for part in parts:
        part.remove()
    assert dict(vars(pipe.unet)) == before
    assert torch.allclose(run(pipe.unet, nets, 900), untouched, atol=1e-5)
    assert compiling["stats"]["unique_graphs"] == graphs
    return graphs


def wrapped(pipe, backend):
    pipe.unet = torch.compile(pipe.unet, backend=backend)


def in_place(pipe, backend):
    pipe.unet.compile(backend=backend)


@pytest.mark.parametrize("compile_it", [wrapped, in_place])
def test_compiled_network(nets, compiling, compile_it):
    # The network at its own two sizes, and with rescaled kernels.
    assert compiled_runs(nets, compiling, compile_it, "eager") == 3


@pytest.mark.slow
def test_compiled_network_by_autograd_s_tracer(nets, compiling):
    assert compiled_runs(nets, compiling, wrapped, "aot_eager") == 3


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_blocks_compiled_one_by_one(nets, compiling, backend):
    pipe = Pipe(nets.unconditioned(**SMALL))
    parts = attach(pipe)
    eager = [run(pipe.unet, nets, t) for t in TIMES]
    for part in parts:
        part.remove()
    pipe.unet.mid_block.compile(backend=backend)
    parts = attach(pipe)
    for _ in range(2):
        for t, wanted in zip(TIMES, eager, strict=True):
            assert torch.allclose(run(pipe.unet, nets, t), wanted, atol=1e-5)
    # With rescaled kernels, and without: after a second size torch compiles for any.
    assert compiling["stats"]["unique_graphs"] == 2 and not compiling["graph_break"]
    for part in parts:
        part.remove()


@pytest.mark.parametrize("what", [SupersampledKernels, UpsampleGuidance])
def test_wrapped_after_attaching_is_said(nets, compiling, what):
    pipe = Pipe(nets.unconditioned(**SMALL))
    before = set(vars(pipe.unet))
    with what(2).attach(pipe) as attached:
        inner = pipe.unet
        wrapped(pipe, "eager")
        with pytest.raises(rk.RekernelError, match=r"UNet2DModel was compiled after .* attach them to the compiled"):
            run(pipe.unet, nets, 900)
        other = UpsampleGuidance(2) if what is SupersampledKernels else SupersampledKernels(2)
        with pytest.raises(rk.RekernelError, match="was compiled after"):
            other.attach(pipe)
        attached.remove()
        assert set(vars(inner)) - {"_is_torch_compile"} == before
        with attached.attach(pipe):
            guided = run(pipe.unet, nets, 900)
    assert not torch.allclose(guided, run(pipe.unet, nets, 900), atol=1e-3)


@pytest.mark.parametrize(("what", "times"), [(UpsampleGuidance, 1), (SupersampledKernels, 2)])
def test_compiled_in_place_while_attached(nets, compiling, what, times):
    """nn.Module.compile takes what stands in forward, and overwrites the compiled call: both are the hook's places."""
    pipe = Pipe(nets.unconditioned(**SMALL))
    before, plain = set(vars(pipe.unet)), run(pipe.unet, nets, 900)
    compiled = []

    def backend(graph, example):
        compiled.append(graph)
        return graph.forward

    attached = what(2).attach(pipe)
    eager = run(pipe.unet, nets, 900)
    for _ in range(times):  # the second time, over the compiled call
        compiled.clear()
        torch._dynamo.reset()
        pipe.unet.compile(backend=backend, fullgraph=True)
        assert torch.allclose(run(pipe.unet, nets, 900), eager, atol=1e-5)
        assert compiled and not compiling["graph_break"]
    attached.remove()
    assert set(vars(pipe.unet)) - {"_compiled_call_impl"} == before
    assert torch.allclose(run(pipe.unet, nets, 900), plain, atol=1e-5)
    assert not torch.allclose(eager, plain, atol=1e-3)


def test_both_stay_in_their_order_when_the_network_is_compiled_beneath_them(nets):
    """Guidance outermost, so that its low pass runs with the original kernels. (A first call would compile.)"""
    unet = nets.unconditioned(**SMALL)
    with SupersampledKernels(2).attach(unet), UpsampleGuidance(2).attach(unet, scheduler=diffusers.DDIMScheduler()):
        for _ in range(2):
            unet.compile(backend="eager")
            registry = unet._rekernel_hook
            assert registry._hook_order == ["rekernel.kernels", "rekernel.guidance"]
            assert "_diffusers_hook" not in vars(unet) and "forward" not in vars(unet)
    assert not {"compile", "_rekernel_hook", "_diffusers_hook", "forward"} & set(vars(unet))


def test_a_compilation_that_fails_leaves_guidance_attached(nets, compiling):
    pipe = Pipe(nets.unconditioned(**SMALL))
    with UpsampleGuidance(2).attach(pipe):
        guided = run(pipe.unet, nets, 900)
        with pytest.raises(RuntimeError):
            pipe.unet.compile(backend="eager", mode="no such mode", options={})
        assert torch.equal(run(pipe.unet, nets, 900), guided)


def test_the_wrapper_of_a_compiled_network_compiled_in_place_is_said(nets, compiling):
    pipe = Pipe(nets.unconditioned(**SMALL))
    wrapped(pipe, "eager")
    with UpsampleGuidance(2).attach(pipe):
        in_place(pipe, "eager")
        with pytest.raises(rk.RekernelError, match="UNet2DModel was compiled after"):
            run(pipe.unet, nets, 900)


def test_flux_is_told_by_its_class_though_it_is_compiled(nets):
    """The compiled network's class is torch's; times of Flux run to 1, and any other reading is quietly wrong."""
    flux = nets.made(
        diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=0,
        attention_head_dim=16, num_attention_heads=1, joint_attention_dim=8, pooled_projection_dim=8,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with UpsampleGuidance(2).attach(torch.compile(flux, backend="eager"), scheduler=scheduler) as guidance:
        assert "FlowSchedule(shift=1, times=1)" in repr(guidance)
        assert "on FluxTransformer2DModel" in repr(guidance)
