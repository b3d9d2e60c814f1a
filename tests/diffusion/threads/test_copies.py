"""A copy of a network with something attached is refused in one line; before and after, a copy is independent."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402
from rekernel.diffusion import RescaledPositions, SupersampledKernels, UpsampleGuidance  # noqa: E402
from rekernel.diffusion.denoiser.call import read_call  # noqa: E402
from rekernel.diffusion.denoiser.substitutes import KernelBank, lent  # noqa: E402


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value)), "torch.save": saved}
every_way = pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)


def flux(nets):
    return nets.made(
        diffusers.FluxTransformer2DModel, patch_size=1, in_channels=4, num_layers=1, num_single_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8, pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


@every_way
@pytest.mark.parametrize("kind", ["guidance", "kernels", "both", "positions"])
def test_a_network_with_something_attached_is_not_copied(nets, kind, how):
    net = flux(nets) if kind == "positions" else nets.conditioned()
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = {
        "guidance": [UpsampleGuidance(2)], "kernels": [SupersampledKernels(2)],
        "both": [SupersampledKernels(2), UpsampleGuidance(2)], "positions": [RescaledPositions(2, "ntk")],
    }[kind]  # fmt: skip
    for part in parts:
        part.attach(net, scheduler=flow if kind == "positions" else nets.ddim)
    for value in (net, *parts):
        with pytest.raises(
            RekernelError, match=r"cannot be copied or pickled with its network; remove\(\) it"
        ) as caught:
            how(value)
        assert str(caught.value).isprintable()
    for part in reversed(parts):
        part.remove()
    check_independent(net, how(net))


def check_independent(net, made):
    """With other weights, the copy computes something else, and the original what it did."""
    with torch.no_grad():
        for name, value in made.state_dict().items():
            assert torch.equal(value, net.state_dict()[name])
            if value.numel():
                value.zero_()
    assert not any(value.any() for value in made.state_dict().values())
    assert any(value.any() for value in net.state_dict().values())
    assert [type(m) for m in made.modules()] == [type(m) for m in net.modules()]
    assert all("forward" not in vars(m) and "_diffusers_hook" not in vars(m) for m in made.modules())


@every_way
def test_a_pipeline_with_something_attached_is_not_copied_and_its_plain_copy_is_guided_by_itself(nets, how):
    pipe = diffusers.DDIMPipeline(nets.unconditioned(), nets.ddim)
    with UpsampleGuidance(2).attach(pipe), pytest.raises(RekernelError, match="cannot be copied or pickled"):
        how(pipe)
    made = how(pipe)
    x, t = nets.noise(1, 3, 16, 16), torch.tensor(500)
    with torch.no_grad(), UpsampleGuidance(2).attach(pipe), UpsampleGuidance(2).attach(made):
        before = pipe.unet(x, t).sample
        assert torch.equal(made.unet(x, t).sample, before)
        for weight in made.unet.parameters():
            weight.mul_(1.1)
        assert torch.equal(pipe.unet(x, t).sample, before)
        assert not torch.allclose(made.unet(x, t).sample, before, atol=1e-3)


def test_settings_that_are_not_attached_are_copied(nets):
    for part in (UpsampleGuidance(2, theta=1.2), SupersampledKernels(2, until=0.5), RescaledPositions(2, "yarn")):
        for how in COPIES.values():
            assert repr(how(part)) == repr(part)
            assert not how(part).attached


def test_a_block_whose_layers_are_lent_to_a_call_is_not_copied(nets):
    net = nets.conditioned()
    call = read_call(net, (nets.noise(2, 3, 16, 16), torch.tensor(500), nets.noise(2, 5, 8, seed=1)), {}, None)
    made = KernelBank(net).substitutes(call, (2.0, 2.0), "inner", "optimal", "factored")
    with lent(made), pytest.raises(RekernelError, match="is using this network now"):
        copy.deepcopy(net.mid_block)
    check_independent(net.mid_block, copy.deepcopy(net.mid_block))


@every_way
@pytest.mark.parametrize(
    "options",
    [{"mode": "supersample", "form": "dense"}, {"mode": "supersample", "form": "factored"}, {}, {"scale": 1.5}],
    ids=str,
)  # fmt: skip
def test_a_rescaled_network_is_copied_with_its_own_weights(options, how):
    """Dense and factored layers, an absorbed scale, and an image that a hook resamples."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=1 if "scale" in options else 2, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4),
    )  # fmt: skip
    scale = options.get("scale", 2)
    rescaled = rkt.rescale(net, example_input=torch.zeros(1, 3, 16, 16), **{"scale": 2, **options}).eval()
    x = torch.randn(1, 3, int(16 * scale), int(16 * scale))
    with torch.no_grad():
        before, made = rescaled(x), how(rescaled)
        assert torch.equal(made(x), before) and made.rekernel_plan == rescaled.rekernel_plan
        for weight in made.parameters():
            weight.mul_(1.5).add_(0.01)
        assert torch.equal(rescaled(x), before)
        assert not torch.allclose(made(x), before, atol=1e-3)
