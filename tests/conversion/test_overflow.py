"""Finite weights never become infinite in silence, in casts and in sums."""

from __future__ import annotations

import pytest

from rekernel import RekernelError, convert

torch = pytest.importorskip("torch")
import safetensors.torch as st  # noqa: E402 - needs torch

from rekernel.torch import rescale  # noqa: E402

SUPERSAMPLE = {"mode": "supersample", "method": "optimal"}


@pytest.fixture
def source(tmp_path):
    def write(weights):
        st.save_file(weights, tmp_path / "in.safetensors")
        return tmp_path / "in.safetensors"

    return write


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("dtype", "value", "to", "words"),
    [
        (torch.float64, 1e39, "F32", r"too large for F32, whose maximum is 3\.40282e\+38; cast to F64"),
        (torch.float64, 1e39, "BF16", r"too large for BF16, whose maximum is 3\.38953e\+38; cast to F32"),
        (torch.float32, 3.4e38, "BF16", "too large for BF16"),
    ],
)
def test_every_narrowing_cast_refuses_what_it_would_make_infinite(dtype, value, to, words, source, tmp_path):
    for name in ("b.bias", "a.weight"):
        weights = {"a.weight": torch.ones(4, 4, 3, 3, dtype=dtype), "b.bias": torch.ones(4, dtype=dtype)}
        weights[name] = torch.full_like(weights[name], value)
        with pytest.raises(RekernelError, match=rf"{name.replace('.', '[.]')}: value .* is {words}"):
            convert(source(weights), tmp_path / "out.safetensors", scale=2, gain="none", dtype=to, **SUPERSAMPLE)
        assert left(tmp_path) == ["in.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_that_become_infinite_are_refused_in_every_dtype_below_float64(dtype, source, tmp_path):
    big = torch.full((4, 4, 3, 3), 3e38, dtype=dtype)
    with pytest.raises(RekernelError, match=r"a\.weight: value .* is too large for B?F"):
        convert(source({"a.weight": big}), tmp_path / "out.safetensors", scale=0.5, **SUPERSAMPLE)
    model = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False).to(dtype)
    model.weight.data = big
    with pytest.raises(RekernelError, match=r"is beyond b?float"):
        rescale(model, 0.5, torch.zeros(1, 4, 8, 8, dtype=dtype), **SUPERSAMPLE)
    assert model.weight.isfinite().all()


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float8_e4m3fn, 448), (torch.float8_e5m2, 57344)])
def test_float8_that_would_overflow_is_refused_and_nan_is_reported(dtype, largest, source, tmp_path):
    """A quantizer scales weights to the whole range, so the next gain is beyond it."""
    asked = {"scale": 0.5, "allow_cast": True, "include": ["a.weight"], **SUPERSAMPLE}
    big = torch.full((4, 4, 3, 3), float(largest)).to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        RekernelError, match=rf"^a\.weight: value .* is too large for {name}, whose maximum is {largest}"
    ):
        convert(source({"a.weight": big}), tmp_path / "out.safetensors", **asked)
    assert left(tmp_path) == ["in.safetensors"]
    small = torch.ones(4, 4, 3, 3)
    small[0, 0] = torch.nan
    report = convert(source({"a.weight": small.to(dtype)}), tmp_path / "out.safetensors", **asked)
    assert any("a.weight" in note for note in report.notes)
    assert st.load_file(tmp_path / "out.safetensors")["a.weight"].float()[1:].isfinite().all()
