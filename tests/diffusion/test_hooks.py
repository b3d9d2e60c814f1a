"""Putting guidance and kernels on a network, and what is left of them afterwards."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
accelerate_hooks = pytest.importorskip("accelerate.hooks")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import SupersampledKernels, UpsampleGuidance  # noqa: E402
from rekernel.diffusion.denoiser.hooks import ForwardHook  # noqa: E402


def state(module):
    """Everything that a module is, by identity."""
    return {name: id(value) for name, value in vars(module).items()}


def states(net):
    return {name: state(module) for name, module in net.named_modules()}


def both(nets, **more):
    return (
        UpsampleGuidance(2, schedule=None, **more).attach(nets.unet, scheduler=nets.ddim),
        SupersampledKernels(2).attach(nets.unet, scheduler=nets.ddim),
    )


@pytest.mark.parametrize("order", ["guidance first", "kernels first"])
@pytest.mark.parametrize("removed", ["guidance first", "kernels first"])
def test_removing_restores_every_module(nets, order, removed):
    unet, before, plain = nets.unet, states(nets.unet), nets.call(nets.unet)
    parts = [UpsampleGuidance(2), SupersampledKernels(2)]
    for part in parts if order == "guidance first" else parts[::-1]:
        part.attach(unet, scheduler=nets.ddim)
    with nets.passes(unet) as sizes:
        guided = nets.call(unet)
    assert sizes[-2:] == [(16, 16), (8, 8)] and not torch.equal(guided, plain)
    first, second = parts if removed == "guidance first" else parts[::-1]
    first.remove()
    with nets.passes(unet) as sizes:
        alone = nets.call(unet)
    assert sizes == ([(16, 16)] if first is parts[0] else [(16, 16), (8, 8)])
    assert not torch.equal(alone, plain) and not torch.equal(alone, guided)
    second.remove()
    assert states(unet) == before
    assert torch.equal(nets.call(unet), plain)


def test_either_order_gives_the_same(nets):
    results = []
    for order in (1, -1):
        parts = [UpsampleGuidance(2), SupersampledKernels(2, "all")][::order]
        for part in parts:
            part.attach(nets.unet, scheduler=nets.ddim)
        results.append(nets.call(nets.unet))
        for part in parts:
            part.remove()
    assert torch.equal(*results)


def test_guidance_is_outermost_so_that_its_low_pass_runs_with_the_original_kernels(nets):
    """The low pass, isolated: with the same kernels at full size, only it can tell the two orders apart."""
    unet = nets.unet
    kernels_at = []
    conv = unet.mid_block.resnets[0].conv1
    handle = conv.register_forward_pre_hook(lambda m, args: kernels_at.append("forward" in vars(m)))
    try:
        for order in (1, -1):
            parts = [UpsampleGuidance(2), SupersampledKernels(2)][::order]
            for part in parts:
                part.attach(unet, scheduler=nets.ddim)
            nets.call(unet)  # plans
            kernels_at.clear()
            nets.call(unet)
            assert kernels_at == [True, False]
            for part in parts:
                part.remove()
    finally:
        handle.remove()


@pytest.mark.parametrize("what", [UpsampleGuidance, SupersampledKernels])
def test_attached_twice_is_refused(nets, what):
    first = what(2)
    with first.attach(nets.unet, scheduler=nets.ddim):
        with pytest.raises(rk.RekernelError, match=rf"{what.__name__}\(.*attached already; (remove\(\)|take it off)"):
            first.attach(nets.unet, scheduler=nets.ddim)
        second = what(3)
        with pytest.raises(rk.RekernelError, match=r"scale=2.*attached already; (remove\(\)|take it off)"):
            second.attach(nets.unet, scheduler=nets.ddim)
        assert "not attached" in repr(second)
        assert "on UNet2DConditionModel" in repr(first)
    assert "not attached" in repr(first)
    first.remove()  # once more does nothing
    with first.attach(nets.unet, scheduler=nets.ddim):
        pass


@pytest.mark.parametrize("what", [UpsampleGuidance, SupersampledKernels])
def test_disabled_it_does_nothing(nets, what):
    plain = nets.call(nets.unet)
    with what(2).attach(nets.unet, scheduler=nets.ddim) as attached:
        acting = nets.call(nets.unet)
        attached.disable()
        assert "disabled" in repr(attached)
        assert torch.equal(nets.call(nets.unet), plain)
        attached.enable()
        assert torch.equal(nets.call(nets.unet), acting)
    assert not torch.equal(acting, plain)


@pytest.mark.parametrize("spec", [UpsampleGuidance(2, theta=0), UpsampleGuidance(1), SupersampledKernels(1)], ids=repr)
def test_nothing_to_do_gives_the_network_s_own_output(nets, spec, monkeypatch):
    given = []
    original = type(nets.unet).forward

    def forward(self, *args, **kwargs):
        given.append(original(self, *args, **kwargs))
        return given[-1]

    monkeypatch.setattr(type(nets.unet), "forward", forward)
    monkeypatch.setattr(forward, "__wrapped__", original, raising=False)
    with spec.attach(nets.unet, scheduler=nets.ddim), torch.no_grad():
        out = nets.unet(nets.noise(1, 3, 16, 16), 10, nets.noise(1, 2, 8))
    assert len(given) == 1 and out is given[0]


def test_where_the_weight_is_zero_the_low_pass_is_not_run(nets):
    plain = nets.call(nets.unet, t=300)
    with UpsampleGuidance(2, eta=0.6).attach(nets.unet, scheduler=nets.ddim), nets.passes(nets.unet) as sizes:
        quiet = nets.call(nets.unet, t=300)
        nets.call(nets.unet, t=900)
    assert sizes == [(16, 16), (16, 16), (8, 8)]
    assert torch.equal(quiet, plain)


def test_at_the_trained_size_auto_leaves_the_network_alone(nets):
    with UpsampleGuidance().attach(nets.unet, scheduler=nets.ddim), nets.passes(nets.unet) as sizes:
        nets.call(nets.unet, size=(8, 8))
        nets.call(nets.unet, size=(8, 16))
        nets.call(nets.unet, size=(32, 24))
    assert sizes == [(8, 8), (8, 16), (8, 8), (32, 24), (16, 16), (8, 8)]  # 3 is 2, and 1.5 at the top


def test_an_exception_in_a_pass_leaves_nothing_behind(nets):
    unet, before = nets.unet, states(nets.unet)
    countdown = [0]

    def fail(_module, _args):
        countdown[0] -= 1
        if countdown[0] == 0:
            raise KeyError("mid-sampling")

    for at in (1, 2):  # of the full pass, of the low pass
        with (
            pytest.raises(KeyError, match="mid-sampling"),
            UpsampleGuidance(2).attach(unet, scheduler=nets.ddim),
            SupersampledKernels(2, "all").attach(unet, scheduler=nets.ddim),
        ):
            nets.call(unet)
            handle = unet.conv_out.register_forward_pre_hook(fail)
            countdown[0] = at
            try:
                nets.call(unet)
            finally:
                handle.remove()
                inside = [n for n, m in unet.named_modules() if n and "forward" in vars(m)]
                assert not inside  # no layer is lent any longer, though everything is attached still
        assert states(unet) == before


class Recorder(diffusers.hooks.ModelHook):
    """Somebody else's hook: counts, and gives back what the network gave."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def new_forward(self, module, *args, **kwargs):
        self.count += 1
        return self.fn_ref.original_forward(*args, **kwargs)


@pytest.mark.parametrize("earlier", [True, False])
def test_beside_another_hook_of_the_registry(nets, earlier):
    unet, other = nets.conditioned(), Recorder()
    spec = UpsampleGuidance(2)
    if earlier:
        diffusers.hooks.HookRegistry.check_if_exists_or_initialize(unet).register_hook(other, "other")
        before = states(unet)
        spec.attach(unet, scheduler=nets.ddim)
    else:
        spec.attach(unet, scheduler=nets.ddim)
        diffusers.hooks.HookRegistry.check_if_exists_or_initialize(unet).register_hook(other, "other")
    guided = nets.call(unet)
    assert other.count == (2 if earlier else 1)
    spec.remove()
    assert "rekernel" not in repr(unet._diffusers_hook)
    other.count = 0
    with nets.passes(unet) as sizes:
        plain = nets.call(unet)
    assert other.count == 1 and sizes == [(16, 16)] and not torch.equal(plain, guided)
    if earlier:
        assert states(unet) == before
    assert torch.equal(plain, nets.call(nets.unet))


def test_an_empty_registry_of_diffusers_stays(nets):
    unet = nets.conditioned()
    registry = diffusers.hooks.HookRegistry.check_if_exists_or_initialize(unet)
    before = states(unet)
    UpsampleGuidance(2).attach(unet, scheduler=nets.ddim).remove()
    assert unet._diffusers_hook is registry and states(unet) == before


class Moved(accelerate_hooks.ModelHook):
    """As accelerate's offloading: does something before each call of the network."""

    def __init__(self):
        self.count = 0

    def pre_forward(self, module, *args, **kwargs):
        self.count += 1
        return args, kwargs


@pytest.mark.parametrize("earlier", [True, False])
def test_offloading_goes_and_comes_back_while_guidance_stays(nets, earlier):
    """What a pipeline with enable_model_cpu_offload does after each call: hooks off, hooks on again."""
    unet, spec, kernels, hook = nets.conditioned(), UpsampleGuidance(2), SupersampledKernels(2), Moved()
    before = states(unet)
    if earlier:
        accelerate_hooks.add_hook_to_module(unet, hook, append=True)
        before = states(unet)
    spec.attach(unet, scheduler=nets.ddim)
    if not earlier:
        accelerate_hooks.add_hook_to_module(unet, hook, append=True)
    kernels.attach(unet, scheduler=nets.ddim)
    nets.call(unet)
    for _ in range(2):
        hook.count = 0
        with nets.passes(unet) as sizes:
            guided = nets.call(unet)
        assert sizes == [(16, 16), (8, 8)] and hook.count == 1
        accelerate_hooks.remove_hook_from_module(unet, recurse=True)
        with nets.passes(unet) as sizes:
            assert torch.equal(nets.call(unet), guided)
        assert sizes == [(16, 16), (8, 8)]
        accelerate_hooks.add_hook_to_module(unet, hook, append=True)
    if earlier:
        spec.remove()
        kernels.remove()
        hook.count = 0
        assert torch.equal(nets.call(unet), nets.call(nets.unet)) and hook.count == 1
        accelerate_hooks.remove_hook_from_module(unet)
    else:
        accelerate_hooks.remove_hook_from_module(unet)
        spec.remove()
        kernels.remove()
        assert states(unet) == {**before, "": state(unet)}
    assert "rekernel" not in str(vars(unet).keys()) and "_diffusers_hook" not in vars(unet)
    assert torch.equal(nets.call(unet), nets.call(nets.unet))


def test_removed_beneath_offloading_that_was_there_before(nets):
    unet = nets.conditioned()
    accelerate_hooks.add_hook_to_module(unet, Moved(), append=True)
    before = states(unet)
    with UpsampleGuidance(2).attach(unet, scheduler=nets.ddim), SupersampledKernels(2).attach(unet):
        nets.call(unet)
    assert states(unet) == before


def test_a_wrapper_that_kept_hold_of_guidance_runs_the_network_alone(nets):
    unet = nets.conditioned()
    spec = UpsampleGuidance(2).attach(unet, scheduler=nets.ddim)
    held = unet.forward
    unet.forward = lambda *args, **kwargs: held(*args, **kwargs)
    spec.remove()
    with nets.passes(unet) as sizes:
        nets.call(unet)
    assert sizes == [(16, 16)]


def test_layerwise_casting(nets):
    plain = nets.conditioned()
    unet = nets.conditioned()
    unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    with UpsampleGuidance(2).attach(unet, scheduler=nets.ddim):
        guided = nets.call(unet)
        with pytest.raises(rk.RekernelError, match=r"conv.*this layer's forward is replaced already.*layer by layer"):
            SupersampledKernels(2).attach(unet, scheduler=nets.ddim)
    for parameter in plain.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    with UpsampleGuidance(2).attach(plain, scheduler=nets.ddim):
        assert torch.allclose(nets.call(plain), guided, atol=0.05)


def test_the_hook_says_what_it_is(nets):
    with UpsampleGuidance(2).attach(nets.unet, scheduler=nets.ddim):
        hook = nets.unet._diffusers_hook.get_hook("rekernel.guidance")
        assert isinstance(hook, ForwardHook) and "UpsampleGuidance(scale=2" in repr(nets.unet._diffusers_hook)
