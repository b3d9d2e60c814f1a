"""What `load` refuses, that a refusal leaves the model as it was, and files that name a tied tensor once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file, save_model  # noqa: E402
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import Hints, RekernelError, convert  # noqa: E402
from rekernel.checkpoint.tensor_source import Checkpoint  # noqa: E402

from .conftest import GROWS  # noqa: E402


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rkt.save(rkt.rescale(build(), 2, torch.zeros(1, 3, 16, 16), **GROWS), tmp_path / "out.safetensors")
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
    refused(nn.ModuleDict({"a": nn.Linear(3, 4)}), file, "another architecture", "which this ModuleDict does not have")


def test_every_missing_tensor_is_named(file: Path) -> None:
    refused(build(), edited(file, **{"1.bias": None, "1.running_var": None}), "misses 1.bias, 1.running_var")


def test_every_unexpected_tensor_is_named(file: Path) -> None:
    refused(build(), edited(file, extra=torch.zeros(1), more=torch.zeros(2)), "has unexpected extra, more")


def test_every_misshapen_tensor_is_named(file: Path) -> None:
    refused(
        build(), edited(file, **{"0.weight": torch.zeros(4, 3, 3, 3), "1.weight": torch.zeros(5)}),
        "has misshapen 0.weight [4, 3, 3, 3] for [4, 3, 5, 5], 1.weight [5] for [4]",
    )  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_integers_for_floats_are_named(file: Path, device: str) -> None:
    """The codes of a quantised weight are no weights; a cast between two floats only rounds."""
    codes = {"3.weight": torch.zeros(2, 4, 6, 6, dtype=torch.int8), "3.bias": torch.ones(2, dtype=torch.bool)}
    message = "numbers of another kind, 3.bias BOOL for F32, 3.weight I8 for F32; "
    with torch.device(device):
        model = build()
    path = edited(file, **codes)
    if device == "cpu":
        refused(model, path, message)
    with pytest.raises(RekernelError, match=message):
        rkt.load(model, path)
    assert {v.device.type for v in model.state_dict().values()} == {device}


def test_floats_for_an_integer_parameter_are_named(file: Path) -> None:
    model = build()
    model[3].bias = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    refused(model, file, "numbers of another kind, 3.bias F32 for I8; ")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float16])
def test_casts_within_a_kind_and_counters_that_a_script_has_cast(file: Path, device: str, dtype: torch.dtype) -> None:
    fits = edited(file, **{"1.bias": torch.ones(4).half(), "1.num_batches_tracked": torch.tensor(3, dtype=dtype)})
    with torch.device(device):
        model = build()
    loaded = rkt.load(model, fits)
    assert loaded[1].num_batches_tracked == 3 and loaded[1].num_batches_tracked.dtype == torch.int64
    assert (loaded[1].bias == 1).all()


@pytest.mark.parametrize("reads", range(1, 10))
def test_a_file_that_cannot_be_read_to_its_end_leaves_an_empty_model_empty(
    file: Path, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, count = Checkpoint.read_range, iter(range(1, 100))

    def broken(self: Checkpoint, *args: Any) -> Any:
        if next(count) == reads:
            raise RekernelError("the disk is broken")
        return read(self, *args)

    with torch.device("meta"):
        model = build()
    text, before = repr(model), model.state_dict(keep_vars=True)
    monkeypatch.setattr(Checkpoint, "read_range", broken)
    with pytest.raises(RekernelError, match="the disk is broken"):
        rkt.load(model, file)
    now = model.state_dict(keep_vars=True)
    assert repr(model) == text and now.keys() == before.keys() and all(now[name] is before[name] for name in now)


def test_all_kinds_at_once(file: Path) -> None:
    path = edited(file, **{"1.bias": None, "extra": torch.zeros(1)})
    refused(build(), path, "misses 1.bias", "has unexpected extra")


def test_a_missing_file(tmp_path: Path) -> None:
    refused(build(), tmp_path / "nowhere.safetensors", "nowhere.safetensors")


def test_loading_twice_is_refused(file: Path) -> None:
    refused(rkt.load(build(), file), file, "was rescaled already (scale 2x2)", "built for the trained size")


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


def test_a_dilation_that_was_not_told_is_answered_with_its_hint(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, dilation=2))
    save_file(model.state_dict(), tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2)
    with pytest.raises(RekernelError, match=r"dilation 2; convert again with hints=.*dilation={'0': 2}"):
        rkt.load(model, tmp_path / "out.safetensors")
    hints = Hints(stride={"0": 1}, padding={"0": 2}, dilation={"0": 2})
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, hints=hints, force=True)
    assert rkt.load(model, tmp_path / "out.safetensors")(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 16, 16)


def test_what_has_no_values_or_no_shape_yet_is_named(tmp_path: Path, file: Path) -> None:
    with torch.device("meta"):
        empty = build()
    rescaled = rkt.rescale(empty, 2, torch.zeros(1, 3, 16, 16, device="meta"))
    with pytest.raises(RekernelError, match=r"0\.weight: is on the meta device, so it has no values"):
        rkt.save(rescaled, tmp_path / "empty.safetensors")
    assert not (tmp_path / "empty.safetensors").exists()
    lazy = nn.Sequential(nn.LazyConv2d(4, 3, padding=1))
    with pytest.raises(RekernelError, match=r"0\.weight: has no shape yet"):
        rkt.rescale(lazy, 2, torch.zeros(1, 3, 16, 16))
    with pytest.raises(RekernelError, match=r"0\.weight: has no shape yet"):
        rkt.load(lazy, file)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.b(self.a(x))
        return result


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_file_that_holds_a_tied_weight_once(tmp_path: Path, device: str) -> None:
    """As safetensors' own save_model writes it."""
    torch.manual_seed(0)
    model = Tied()
    save_model(model, tmp_path / "in.safetensors")
    assert len(load_file(tmp_path / "in.safetensors")) == 3
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, **GROWS)
    with torch.device(device):
        empty = Tied()
    loaded = rkt.load(empty, tmp_path / "out.safetensors")
    assert loaded.a.weight is loaded.b.weight
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded(x), rkt.rescale(model, 2, torch.zeros(1, 3, 8, 8), **GROWS)(x))
