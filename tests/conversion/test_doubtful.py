"""Conversions that succeed or fail with a word to say: values that are not finite, packed weights, folders in use."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rekernel as rk

pytestmark = pytest.mark.filterwarnings("ignore::rekernel.RekernelWarning")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rescaled_tensors_that_are_not_finite_are_named(tmp_path: Path, dtype: type, value: float) -> None:
    sound, broken = np.ones((8, 8, 3, 3), dtype), np.ones((8, 8, 3, 3), dtype)
    broken[5, 0, 1, 1] = value
    save_file({"a.weight": sound, "b.weight": broken, "b.bias": broken[5, 0, 1]}, tmp_path / "in.safetensors")
    report = rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, mode="supersample")
    assert [note for note in report.notes if "NaN" in note] == [
        "b.weight: NaN or infinite values in the source, which spread to their neighbours"
    ]
    assert np.isfinite(load_file(tmp_path / "out.safetensors")["a.weight"].astype(np.float32)).all()


def test_packed_weights_are_named_with_their_quantizer(tmp_path: Path) -> None:
    conv = {"conv.weight": np.ones((8, 3, 3, 3), np.float32)}
    for name, beside in {
        "bitsandbytes": "fc.weight.quant_state.bitsandbytes__nf4", "bitsandbytes ": "fc.weight.SCB",
        "GPTQ or AWQ": "fc.qzeros",
    }.items():  # fmt: skip
        save_file({**conv, beside: np.ones(80, np.uint8)}, tmp_path / "in.safetensors")
        notes = rk.plan_checkpoint(tmp_path / "in.safetensors", scale=2).warnings
        assert any(f"packed into fewer bits by {name.strip()}, " in note for note in notes)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "sd"
    (folder / "unet").mkdir(parents=True)
    save_file({"conv.weight": np.ones((8, 3, 3, 3), np.float32)}, folder / "unet" / "model.safetensors")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "P", "unet": ["diffusers", "X"]}))
    return folder


def test_a_folder_around_the_source_is_refused_whatever_is_forced(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.parent)
    for target in (".", pipeline.parent, pipeline.parent / "sd" / ".."):
        for options in ({}, {"force": True}, {"resume": True}):
            with pytest.raises(rk.RekernelError, match="holds the source"):
                rk.convert("sd", target, scale=2, **options)
    assert [path.name for path in pipeline.parent.iterdir()] == ["sd"]


def test_a_folder_with_files_is_left_alone_unless_forced_and_hidden_files_do_not_count(pipeline: Path) -> None:
    target = pipeline.parent / "out"
    (target / ".git").mkdir(parents=True)
    rk.convert(pipeline, target, scale=2)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(rk.RekernelError, match=r"not empty \(model_index\.json, unet\); pass a new folder, or force"):
        rk.convert(pipeline, target, scale=1.5)
    assert before == {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    (target / "mine.txt").write_text("kept")
    rk.convert(pipeline, target, scale=1.5, force=True)
    assert (target / "mine.txt").read_text() == "kept"


def test_a_link_that_leads_out_is_refused_before_anything_is_written(pipeline: Path) -> None:
    target = pipeline.parent / "out"
    target.mkdir()
    (target / "away").symlink_to(pipeline / "model_index.json")
    with pytest.raises(rk.RekernelError, match=r"away: is a link that leads out"):
        rk.convert(pipeline, target, scale=2, force=True)
    assert [path.name for path in target.iterdir()] == ["away"]
