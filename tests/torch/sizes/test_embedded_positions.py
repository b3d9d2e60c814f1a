"""Positions that a model looks up by number, as CLIP does: their table grows in files, and so do the numbers."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rekernel.torch as rkt  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8,
    "image_size": 48,
}  # fmt: skip


def clip() -> Any:
    torch.manual_seed(0)
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)).eval()


def siglip() -> Any:
    torch.manual_seed(0)
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL, vision_use_head=False)).eval()


@pytest.mark.parametrize("build", [clip, siglip])
@pytest.mark.parametrize("patches", ["keep", "grow"])
def test_a_grid_makes_the_positions_of_a_converted_file_grow(build: Any, patches: str, tmp_path: Any) -> None:
    model = build()
    table = model.embeddings.position_embedding.weight
    table.data = torch.linspace(-1, 1, len(table))[:, None] * torch.randn(16)
    model.save_pretrained(tmp_path / "in")
    name, patch = "embeddings.position_embedding.weight", "embeddings.patch_embedding"
    options = ["--mode", "supersample", "--grid", f"{name}=6,6"]
    options += ["--include", name] if patches == "keep" else ["--stride", f"{patch}=8", "--padding", f"{patch}=0"]
    result = CliRunner().invoke(
        main, ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--scale", "2", *options]
    )
    assert result.exit_code == 0, result.output + result.stderr
    larger = rkt.load(build(), tmp_path / "out").eval()
    front = len(table) - 36
    assert larger.embeddings.position_embedding.num_embeddings == front + 144
    assert torch.equal(larger.embeddings.position_ids, torch.arange(front + 144)[None])
    assert model.embeddings.position_ids.shape == (1, len(table))
    assert (larger.embeddings.image_size, larger.config.image_size, larger.config.patch_size) == (96, 96, 8)
    zeros = torch.zeros(1, 3, 96, 96)
    with torch.no_grad():
        tokens, own = larger.embeddings(zeros), model.embeddings(zeros, interpolate_pos_encoding=True)
        assert larger(zeros).last_hidden_state.shape == (1, front + 144, 16)
    assert (tokens - own).norm() < 0.1 * own.norm()  # two filters for the same values
