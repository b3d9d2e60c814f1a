"""Vision transformers converted as folders: transformers alone loads them, and they say what the torch adapter's do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from rekernel.conversion.transformers_config import EXPRESSIBLE
from rekernel_cli.main import main

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import rekernel.torch as rkt  # noqa: E402 - after torch is known to be there

SIZE, PATCH = 16, 4
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": SIZE,
    "patch_size": PATCH,
}  # fmt: skip
MODELS = {
    "vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters",
    "vit_msn": "ViTMSN", "ijepa": "IJepa",
}  # fmt: skip


def built(kind, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, MODELS[kind] + "Config")(**(SMALL | changes))
    model = getattr(transformers, MODELS[kind] + "Model")(config).eval()
    for parameter in model.parameters():  # position embeddings and tokens begin as zeros in some
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    return model


def folder_of(model, path, processor=None):
    model.save_pretrained(path)
    if processor:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def converted(source, target, *options):
    result = CliRunner().invoke(main, ["convert", str(source), str(target), *options])
    assert result.exit_code == 0, result.output + result.stderr
    return result


def answers(model, x):
    with torch.no_grad():
        return model(x).last_hidden_state


def test_every_type_that_is_promised_is_tested():
    assert set(MODELS) == set(EXPRESSIBLE)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("scale", ["2", "1.5"])
def test_absorbed_patches_load_without_rekernel(kind, scale, tmp_path):
    model = built(kind)
    source = folder_of(model, tmp_path / "in", {"size": {"height": SIZE, "width": SIZE}, "do_resize": True})
    converted(source, tmp_path / "out", "--scale", scale)
    s = float(scale)
    side = round(SIZE * s)
    loaded, report = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert (loaded.config.image_size, loaded.config.patch_size) == (side, round(PATCH * s))
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor == {"size": {"height": side, "width": side}, "do_resize": True}
    x = torch.randn(2, 3, side, side)
    expected = rkt.rescale(model, s, torch.zeros(1, 3, SIZE, SIZE))
    assert torch.allclose(answers(loaded.eval(), x), answers(expected, x), atol=1e-5)
    before = json.loads((source / "config.json").read_text())
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {k: v for k, v in after.items() if v != before[k]} == {"image_size": side, "patch_size": round(PATCH * s)}
    assert list(after) == list(before)


@pytest.mark.parametrize("kind", MODELS)
def test_a_larger_token_grid_loads_without_rekernel(kind, tmp_path):
    model = built(kind)
    source = folder_of(model, tmp_path / "in")
    converted(source, tmp_path / "out", "--scale", "2", "--mode", "supersample", "--exclude", "*projection")
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert (loaded.config.image_size, loaded.config.patch_size) == (2 * SIZE, PATCH)
    x = torch.randn(2, 3, 2 * SIZE, 2 * SIZE)
    modes = {"*projection": "supersample"}
    expected = rkt.rescale(model, 2, torch.zeros(1, 3, SIZE, SIZE), modes=modes, exclude=["*projection"])
    assert torch.allclose(answers(loaded, x), answers(expected, x), atol=1e-5)


def test_sides_may_grow_differently(tmp_path):
    model = built("vit")
    source = folder_of(model, tmp_path / "in", {"size": {"height": SIZE, "width": SIZE}})
    converted(source, tmp_path / "out", "--scale-h", "2", "--scale-w", "1")
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert (list(loaded.config.image_size), list(loaded.config.patch_size)) == ([2 * SIZE, SIZE], [2 * PATCH, PATCH])
    x = torch.randn(1, 3, 2 * SIZE, SIZE)
    expected = rkt.rescale(model, (2, 1), torch.zeros(1, 3, SIZE, SIZE))
    assert torch.allclose(answers(loaded, x), answers(expected, x), atol=1e-5)
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["size"] == {
        "height": 32,
        "width": 16,
    }


def test_a_classifier_keeps_its_head_and_its_crop_grows(tmp_path):
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**SMALL, num_labels=3)
    model = transformers.Dinov2ForImageClassification(config).eval()
    source = folder_of(
        model, tmp_path / "in", {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
    )
    converted(source, tmp_path / "out", "--scale", "2")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor == {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    x = torch.randn(1, 3, 32, 32)
    expected = rkt.rescale(model, 2, torch.zeros(1, 3, SIZE, SIZE))
    with torch.no_grad():
        assert torch.allclose(loaded(x).logits, expected(x).logits, atol=1e-5)


def test_kernels_that_no_configuration_names_leave_it_alone_and_say_so(tmp_path):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    source = folder_of(transformers.ResNetModel(config), tmp_path / "in", {"size": {"shortest_edge": 32}})
    result = converted(source, tmp_path / "out", "--scale", "2")
    assert "rekernel.torch.load" in result.stderr and "config.json is left as it is" in result.stderr
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text()) == {"size": {"shortest_edge": 64}}
    model = rkt.load(transformers.ResNetModel(config), tmp_path / "out")
    assert model.embedder.embedder.convolution.weight.shape[-1] > 7


def test_an_overlapping_patch_embedding_cannot_be_said(tmp_path):
    source = folder_of(built("vit"), tmp_path / "in")
    result = converted(source, tmp_path / "out", "--scale", "2", "--mode", "supersample", "--json")
    report = json.loads(result.stdout)
    assert ["config.json" in note and "projection.weight" in note for note in report["notes"]] == [True]
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"model_type": "vit", "image_size": 16}', b'{"model_type": "\x1b[2J"}']
)
def test_a_broken_configuration_is_copied_and_named(text, tmp_path):
    source = folder_of(built("vit"), tmp_path / "in")
    (source / "config.json").write_bytes(text)
    result = converted(source, tmp_path / "out", "--scale", "2")
    assert "left as it is" in result.stderr and "\x1b" not in result.stderr
    assert (tmp_path / "out" / "config.json").read_bytes() == text


def test_weights_are_those_of_the_file_alone(tmp_path):
    """A folder's configuration decides nothing about the tensors."""
    from safetensors.numpy import load_file

    source = folder_of(built("vit"), tmp_path / "in")
    converted(source, tmp_path / "out", "--scale", "2")
    converted(source / "model.safetensors", tmp_path / "one.safetensors", "--scale", "2")
    ours, theirs = load_file(tmp_path / "out" / "model.safetensors"), load_file(tmp_path / "one.safetensors")
    assert all(np.array_equal(ours[n], theirs[n]) for n in theirs)
