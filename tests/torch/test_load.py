"""What `load` refuses, and that a refusal leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rkt.save(rkt.rescale(build(), 2, torch.zeros(1, 3, 16, 16)), tmp_path / "out.safetensors")
    return tmp_path / "out.safetensors"


def edited(file: Path, **changes: Any) -> Path:
    """A copy of a file with tensors changed, added or (None) removed."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = {**load_file(file), **changes}
    other = file.with_name("edited.safetensors")
    save_file({k: v for k, v in tensors.items() if v is not None}, other, metadata)
    return other


def refused(model: nn.Module, path: Path, *messages: str) -> None:
    text, tensors = repr(model), {k: (v, v.clone()) for k, v in model.state_dict(keep_vars=True).items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(RekernelError) as caught:
        rkt.load(model, path)
    assert "\n" not in str(caught.value)
    for message in messages:
        assert message in str(caught.value)
    assert repr(model) == text
    now = model.state_dict(keep_vars=True)
    assert now.keys() == tensors.keys()
    for name, (kept, value) in tensors.items():
        assert now[name] is kept
        assert torch.equal(now[name], value)
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}


def test_a_file_without_recipe(tmp_path: Path) -> None:
    save_file(build().state_dict(), tmp_path / "plain.safetensors")
    refused(build(), tmp_path / "plain.safetensors", "has no recipe", "load it as any other file")


def test_a_file_of_another_architecture(file: Path) -> None:
    refused(nn.Sequential(nn.Conv1d(3, 4, 3)), file, "another architecture", "0.weight")
    refused(nn.Sequential(nn.Linear(3, 4)), file, "another architecture", "0.weight")
    refused(nn.ModuleDict({"a": build()}), file, "another architecture", "which ModuleDict does not have")


def test_every_missing_tensor_is_named(file: Path) -> None:
    refused(build(), edited(file, **{"1.bias": None, "1.running_var": None}), "misses 1.bias, 1.running_var")


def test_every_unexpected_tensor_is_named(file: Path) -> None:
    refused(build(), edited(file, extra=torch.zeros(1), more=torch.zeros(2)), "has unexpected extra, more")


def test_every_misshapen_tensor_is_named(file: Path) -> None:
    refused(
        build(), edited(file, **{"0.weight": torch.zeros(4, 3, 3, 3), "1.weight": torch.zeros(5)}),
        "has misshapen 0.weight [4, 3, 3, 3] for [4, 3, 5, 5], 1.weight [5] for [4]",
    )  # fmt: skip


def test_all_kinds_at_once(file: Path) -> None:
    path = edited(file, **{"1.bias": None, "extra": torch.zeros(1)})
    refused(build(), path, "misses 1.bias", "has unexpected extra")


def test_a_missing_file(tmp_path: Path) -> None:
    refused(build(), tmp_path / "nowhere.safetensors", "nowhere.safetensors")


def test_loading_twice_is_refused(file: Path) -> None:
    refused(rkt.load(build(), file), file, "another architecture")


def test_saving_what_was_not_rescaled(tmp_path: Path) -> None:
    with pytest.raises(RekernelError, match="has no plan"):
        rkt.save(build(), tmp_path / "no.safetensors")


def test_saving_over_a_file(file: Path) -> None:
    model = rkt.load(build(), file)
    with pytest.raises(RekernelError):
        rkt.save(model, file)
    rkt.save(model, file, force=True)
    rkt.load(build(), file)


def test_a_meta_buffer_that_no_file_holds_is_named(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.register_buffer("steps", torch.arange(3), persistent=False)

        def forward(self, x: Any) -> Any:
            return self.conv(x) + self.steps.sum()

    rkt.save(rkt.rescale(Counts(), 2, torch.zeros(1, 3, 8, 8)), tmp_path / "out.safetensors")
    with torch.device("meta"):
        model = Counts()
    with pytest.raises(RekernelError, match="steps: is a buffer on the meta device"):
        rkt.load(model, tmp_path / "out.safetensors")
    assert model.conv.kernel_size == (3, 3)
