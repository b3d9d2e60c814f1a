"""Names that differ by a prefix: the refusal says which, and what it says works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

X = torch.zeros(1, 3, 16, 16)


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3, padding=1)
    ).eval()  # fmt: skip


def held(model: nn.Module, prefix: str) -> nn.Module:
    for word in reversed(prefix.removesuffix(".").split(".")):
        model = nn.ModuleDict({word: model})
    return model


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net(x)


def converted(folder: Path, prefix: str, **options: Any) -> Path:
    save_file(held(build(), prefix).state_dict(), folder / "in.safetensors")
    rk.convert(folder / "in.safetensors", folder / "out.safetensors", scale=2, **options)
    return folder / "out.safetensors"


@pytest.mark.parametrize("mode", ["absorb", "supersample"])
@pytest.mark.parametrize("prefix", ["model.", "module.", "net.", "ema.backbone."])
def test_a_prefix_of_the_file_is_named_and_can_be_stripped(prefix: str, mode: str, tmp_path: Path) -> None:
    mode = {"hints": rk.Hints(mode={f"{prefix}0": "absorb"})} if mode == "absorb" else {"mode": mode}
    path = converted(tmp_path, prefix, **mode)
    with pytest.raises(rk.RekernelError) as refused:
        rkt.load(build(), path)
    assert f"begin with '{prefix}'" in str(refused.value) and f"pass prefix='{prefix}'" in str(refused.value)
    assert "another architecture" not in str(refused.value)
    plain = tmp_path / "plain"
    plain.mkdir()
    save_file(build().state_dict(), plain / "in.safetensors")
    options = {"hints": rk.Hints(mode={"0": "absorb"})} if "hints" in mode else mode
    rk.convert(plain / "in.safetensors", plain / "out.safetensors", scale=2, **options)
    expected, got = rkt.load(build(), plain / "out.safetensors"), rkt.load(build(), path, prefix=prefix)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(got(x), expected(x))
    through = rkt.load_pretrained(tmp_path, model=build(), filename="out.safetensors", prefix=prefix)
    with torch.no_grad():
        assert torch.equal(through(x), expected(x))


@pytest.mark.parametrize(
    "options", [{}, {"mode": "supersample", "method": "dilate"}, {"reading_filter": "cubic"}], ids=str
)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])  # the second resamples the image in front of the model
def test_a_prefix_of_a_traced_model_too(options: Any, padding_mode: str, tmp_path: Path) -> None:
    def net() -> nn.Module:
        model = build()
        model[0].padding_mode = padding_mode
        model[0]._reversed_padding_repeated_twice = [1] * 4
        return model

    larger = rkt.rescale(Wrapper(net()), 2, X, **options)
    rkt.save(larger, tmp_path / "out.safetensors")
    if larger.rekernel_plan.changed:
        with pytest.raises(rk.RekernelError, match=r"begin with 'net\.'.*pass prefix='net\.'"):
            rkt.load(net(), tmp_path / "out.safetensors")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(rkt.load(net(), tmp_path / "out.safetensors", prefix="net.")(x), larger(x))


@pytest.mark.parametrize("stale_first", [False, True])
def test_a_name_with_and_without_the_prefix_is_refused(stale_first: bool, tmp_path: Path) -> None:
    """As wrappers of training leave it: which of the two belongs to the model, the file does not say."""
    path = converted(tmp_path, "module.", mode="supersample")
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors, stale = load_file(path), {"0.bias": torch.zeros_like(load_file(path)["module.0.bias"])}
    save_file(stale | tensors if stale_first else tensors | stale, path, metadata)
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(rk.RekernelError, match=r"^prefix='module\.': the file has both module\.0\.bias and 0\.bias, "):
        rkt.load(model, path, prefix="module.")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    save_file({**tensors, "0.steps": torch.zeros(1)}, path, metadata)  # no such collision: told as any unexpected name
    with pytest.raises(rk.RekernelError, match=r"unexpected 0\.steps"):
        rkt.load(model, path, prefix="module.")


def test_a_prefix_of_the_model_is_named_with_the_part_to_load_into(tmp_path: Path) -> None:
    rkt.save(rkt.rescale(build(), 2, X), tmp_path / "out.safetensors")
    model = held(build(), "module.")
    with pytest.raises(rk.RekernelError, match=r"names of the model begin with 'module\.'.*load into model\.module"):
        rkt.load(model, tmp_path / "out.safetensors")
    with pytest.raises(rk.RekernelError, match=r"wrapped in DataParallel.*load the network first, and wrap the result"):
        rkt.load(nn.DataParallel(build()), tmp_path / "out.safetensors")
    assert rkt.load(model.module, tmp_path / "out.safetensors")(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 16, 16)


def test_another_architecture_is_still_called_that(tmp_path: Path) -> None:
    rkt.save(rkt.rescale(build(), 2, X), tmp_path / "out.safetensors")
    with pytest.raises(rk.RekernelError, match="was made for another architecture"):
        rkt.load(nn.Sequential(nn.Linear(3, 4)), tmp_path / "out.safetensors")
    with pytest.raises(rk.RekernelError, match=r"the names of the plan begin with 'net\.'; plan again"):
        rkt.apply_plan(build(), rkt.rescale(Wrapper(build()), 2, X).rekernel_plan)


def test_many_missing_tensors_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    deep = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(60)))
    rkt.save(rkt.rescale(deep, 2, X), tmp_path / "out.safetensors")
    more = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(60)), *(nn.BatchNorm2d(3) for _ in range(30)))
    with pytest.raises(rk.RekernelError, match=r"it misses .* and 145 more") as refused:
        rkt.load(more, tmp_path / "out.safetensors")
    assert len(str(refused.value)) < 500
