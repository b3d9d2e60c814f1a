"""What others hung on a layer is there after rescaling: hooks of every kind, attributes; or it is refused by name."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.torch.editing.edits import Edits  # noqa: E402

FORMS = ["dense", "factored"]
EXAMPLE = torch.zeros(1, 2, 8, 8)


def network() -> nn.Module:
    """Layers that become: a convolution or a factored one, a padded pooling, a cropped or factored transposed one."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inplace", [False, True])
def test_forward_hooks_go_on_changing_what_goes_in_and_comes_out(form: str, inplace: bool) -> None:
    model = network()
    bare = rkt.rescale(model, 2, EXAMPLE, form=form)
    x = torch.randn(1, 2, 16, 16)
    for index in (0, 2, 3):
        model[index].register_forward_pre_hook(lambda _m, args: (args[0] * 2,))
        model[index].register_forward_pre_hook(lambda _m, args, kwargs: (args, kwargs), with_kwargs=True)
        model[index].register_forward_hook(lambda _m, _args, out: out * 3)
        model[index].register_forward_hook(lambda _m, _args, kwargs, out: out + len(kwargs), with_kwargs=True)
    larger = rkt.rescale(model, 2, EXAMPLE, form=form, inplace=inplace)
    with torch.no_grad():
        expected = x
        for layer, changed in zip(bare, (True, False, True, True), strict=True):
            expected = 3 * layer(2 * expected) if changed else layer(expected)
        assert torch.allclose(larger(x), expected, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_handle_removes_its_hook_from_the_layer_that_took_over(form: str) -> None:
    model = network()
    calls: list[str] = []
    kept = model[0].register_forward_hook(lambda *_: calls.append("forward"))
    handle = model[0].register_forward_hook(lambda *_: calls.append("removed"))
    larger = rkt.rescale(model, 2, EXAMPLE, form=form, inplace=True)
    handle.remove()
    calls.clear()  # of the passes that rescaling made
    larger(torch.zeros(1, 2, 16, 16))
    assert calls == ["forward"]
    kept.remove()
    larger(torch.zeros(1, 2, 16, 16))
    assert calls == ["forward"]


def test_a_hook_that_is_always_called_is_called_when_the_layer_fails() -> None:
    model = network()
    calls: list[Any] = []
    model[0].register_forward_hook(lambda _m, _args, out: calls.append(out), always_call=True)
    larger = rkt.rescale(model, 2, EXAMPLE)
    calls.clear()
    with pytest.raises(RuntimeError):
        larger(torch.zeros(1, 3, 16, 16))  # three channels where two are read
    assert calls == [None]


@pytest.mark.parametrize("form", FORMS)
def test_backward_hooks(form: str) -> None:
    model = network()
    seen: list[Any] = []
    model[3].register_full_backward_pre_hook(lambda _m, grad: seen.append(tuple(grad[0].shape)))
    model[3].register_full_backward_hook(lambda _m, into, _out: seen.append(tuple(into[0].shape)))
    larger = rkt.rescale(model, 2, EXAMPLE, form=form)
    larger(torch.randn(1, 2, 16, 16)).sum().backward()
    assert seen == [(1, 2, 16, 16), (1, 4, 8, 8)]


def halved(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state[f"{prefix}weight"] = state[f"{prefix}weight"] / 2
    module.visited = True


def named(_m: nn.Module, state: dict[str, Any], prefix: str, _local: Any) -> None:
    state[f"{prefix}note"] = torch.ones(1)


def prepared(module: nn.Module, *_: Any) -> None:
    module.prepared = True


@pytest.mark.parametrize("form", FORMS)
def test_state_dict_hooks(form: str) -> None:
    model = network()
    larger = rkt.rescale(model, 2, EXAMPLE, form=form)
    model[0].register_load_state_dict_pre_hook(halved)
    model[0].register_state_dict_post_hook(named)
    model[0].register_state_dict_pre_hook(prepared)
    hooked = rkt.rescale(model, 2, EXAMPLE, form=form, exclude=["3.*"])[:1]
    del model
    assert set(hooked.state_dict()) == {"0.weight", "0.bias", "0.note"}
    assert hooked[0].prepared
    hooked.load_state_dict(larger[:1].state_dict())
    assert torch.equal(hooked[0].weight, larger[0].weight / 2)
    assert hooked[0].visited  # the hook is given the new layer
    again = pickle.loads(pickle.dumps(hooked))
    assert set(again.state_dict()) == {"0.weight", "0.bias", "0.note"}


@pytest.mark.parametrize("form", FORMS)
def test_attributes_that_are_not_the_layers_own(form: str) -> None:
    model = network()
    model[0].learning_rate, model[2].tag = 0.5, ("pool",)
    larger = rkt.rescale(model, 2, EXAMPLE, form=form)
    assert larger[0].learning_rate == 0.5
    assert larger[2].tag == ("pool",)
    assert not hasattr(larger[0], "padding") or larger[0].padding != model[0].padding  # the old one describes the old


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_hooks_that_compute_a_baked_weight_are_not_taken_over_and_others_are(norm: Any) -> None:
    model = nn.Sequential(norm(nn.Conv2d(2, 4, 3, padding=1))).eval()
    model[0].register_forward_hook(lambda _m, _args, out: out + 1)
    larger = rkt.rescale(model, 2, EXAMPLE, method="optimal")
    assert set(larger.state_dict()) == {"0.weight", "0.bias"}
    bare = nn.Conv2d(2, 4, 5, padding=2)
    bare.load_state_dict(larger[0].state_dict())
    x = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        assert torch.equal(larger(x), bare(x) + 1)


def test_a_forward_replaced_on_the_layer_is_refused_by_name_and_nothing_changed() -> None:
    model = network()
    plain = model[2].forward
    model[2].forward = lambda x: plain(x)
    before = list(model)
    with pytest.raises(rk.RekernelError, match=r"^2: its forward was replaced on the layer itself"):
        rkt.rescale(model, 2, EXAMPLE, inplace=True)
    assert list(model) == before


def test_layers_whose_place_was_given_back_have_no_hooks() -> None:
    """Sampling keeps rescaled layers beside the model, and the hooks of the layers it lends them to run already."""
    model = network()
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    old, new = model[0], nn.Conv2d(2, 4, 5)
    with Edits(model) as edits:
        edits.replace(old, new)
        model[0](torch.zeros(1, 2, 8, 8))
        edits.undo()
    assert calls == ["forward"]
    new(torch.zeros(1, 2, 8, 8))
    assert calls == ["forward"]
    model[0](torch.zeros(1, 2, 8, 8))
    assert calls == ["forward", "forward"]


def test_an_averages_own_divisor_grows_with_its_window() -> None:
    model = nn.Sequential(nn.AvgPool2d(2, divisor_override=3))
    with torch.no_grad():
        assert model(torch.ones(1, 2, 8, 8))[0, :, 2, 2].tolist() == pytest.approx([4 / 3] * 2)
        large = rkt.rescale(model, 2, EXAMPLE)(torch.ones(1, 2, 16, 16))
    assert large[0, :, 2, 2].tolist() == pytest.approx([4 / 3] * 2)
