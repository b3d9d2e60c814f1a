"""The model card: its metadata, what it tells, and names that try to be more than names."""

import ast
import json

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

import rekernel as rk
from rekernel.errors import RekernelError
from rekernel.hub import payload, push
from rekernel.hub.card import checked_verification
from rekernel.hub.loading_code import library_of, snippet

from .conftest import card, weights

HOSTILE = "w|<img src=x>[a](javascript:b)`$\n# x\x1b[31m.weight"
VERIFIED = {
    "size": [16, 16], "new_size": [32, 32], "error": 0.12345, "untouched_error": 0.5,
    "scores": {"original": {"accuracy": 99.0, "f1": 98.0}, "converted": {"accuracy": 97.5, "f1": 96.0}},
}  # fmt: skip


@pytest.fixture
def converted(tmp_path):
    """A folder that was converted from the disk, at another scale per axis."""
    folder = tmp_path / "in"
    folder.mkdir()
    save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_bytes(card(license="mit", tags=["vision"], pipeline_tag="image-classification"))
    rk.convert(folder, tmp_path / "out", scale=(2, 1.5), method="cubic", gain="ratio")
    return tmp_path / "out"


def parsed(text):
    found = ModelCard(text)
    return found.data.to_dict(), found.text


def test_the_card_tells_what_was_done(converted):
    pushed = push(converted, "me/model-2x", base_model="org/base", verified=VERIFIED, dry_run=True)
    front, text = parsed(pushed.card)
    assert front == {
        "base_model": "org/base", "base_model_relation": "merge", "library_name": "rekernel", "license": "mit",
        "pipeline_tag": "image-classification", "tags": ["rekernel", "vision"],
    }  # fmt: skip
    source = rk.inspect(converted).recipe.sources[0]
    for told in (
        "| scale | 1.5 in width and 2 in height |", "| method | cubic |", "| gain | ratio |",
        "| tensors rescaled | 2 |",
        f"SHA-256 `{source.sha256}`", f"{source.nbytes:,} bytes", f"| made by | rekernel {rk.__version__} |",
        "| 2 | kernel 3, stride 1, padding 1 | kernel 11x9, stride 1, padding 5x4 |",
        "against the original's at 16x16: 0.1235.", "untouched network at 32x32: 0.5000",
        "The converted network at 32x32: accuracy 97.5, macro F1 96.0.", "As the source: mit.",
    ):  # fmt: skip
        assert told in text, told
    assert pushed.message == "Rescale org/base by 1.5 in width and 2 in height (cubic, gain ratio, 2 tensors)"


def test_what_is_not_known_is_not_told(converted):
    (converted / "README.md").unlink()
    pushed = push(converted, "me/model-2x", dry_run=True)
    front, text = parsed(pushed.card)
    assert front == {"library_name": "rekernel", "tags": ["rekernel"]}
    assert "Measured" not in text and "Nothing was measured on this model" in text
    assert "The source does not say its licence." in text
    assert [note.partition(":")[0] for note in pushed.notes] == [
        "the base model is unknown", "the source's licence is unknown",
    ]  # fmt: skip


def test_a_figure_goes_with_the_card(converted, tmp_path):
    (tmp_path / "Errors [1].PNG").write_bytes(b"\x89PNG")
    pushed = push(converted, "me/x", figure=tmp_path / "Errors [1].PNG", dry_run=True)
    assert ("rekernel.png", 4) in pushed.files and "](rekernel.png)" in pushed.card
    with pytest.raises(RekernelError, match="is not a picture"):
        push(converted, "me/x", figure=converted / "config.json", dry_run=True)
    with pytest.raises(RekernelError, match="no such file"):
        push(converted, "me/x", figure=tmp_path / "other.png", dry_run=True)


def test_names_from_files_are_text_and_no_markup(tmp_path):
    """A tensor's name, the family, options and metadata of the recipe, a file's name, the source's card."""
    folder = tmp_path / "in"
    folder.mkdir()
    file = "m[x](y)<b>.safetensors"
    save_file({HOSTILE: np.ones((4, 3, 3, 3), np.float32)}, folder / file)
    (folder / "README.md").write_bytes(card(
        license="mit", license_name="<script>", license_link="javascript:x", pipeline_tag="[x](y)", tags=["<b>", "ok"]
    ))  # fmt: skip
    plan = rk.plan_checkpoint(folder, scale=2)
    hostile = {**plan.options, "selection": HOSTILE, "method": HOSTILE}
    evil = rk.Plan(plan.changes, family=HOSTILE, options=hostile)
    rk.convert(folder, tmp_path / "out", plan=evil)
    pushed = push(tmp_path / "out", "me/model", base_model="org/base", dry_run=True)
    front, text = parsed(pushed.card)
    assert front["tags"] == ["rekernel", "ok"] and "license_name" not in front and "pipeline_tag" not in front
    prose, code = text.split("```python\n")[0], text.split("```python\n")[1].split("```")[0]
    for part in (prose, text.split("```")[-1]):
        assert "<" not in part.replace("<br>", "") and "javascript:" not in part and "\x1b" not in part
    assert "\n# x" not in text and "\x1b" not in pushed.message and "\n" not in pushed.message
    compile(code, "card", "exec")


def test_the_snippet_is_python_whatever_a_file_is_called(tmp_path):
    for file in ('a"b.safetensors', "a'b\".safetensors", "a```\nimport os.safetensors", "é\\.safetensors"):
        folder = tmp_path / str(abs(hash(file)))
        folder.mkdir()
        save_file(weights(), folder / "in.safetensors")
        rk.convert(folder / "in.safetensors", folder / "out.safetensors", scale=2)
        (folder / "in.safetensors").unlink()
        (folder / "out.safetensors").rename(folder / file)
        text = snippet(payload(folder), "me/x")
        strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        assert file in strings and "\n```" not in text


def test_class_names_of_a_config_become_code_only_as_identifiers(converted):
    for config, expected in (
        ({"_class_name": "UNet2DModel"}, "rkt.load_pretrained(\"me/x\")  # a UNet2DModel"),
        ({"_class_name": "x; import os"}, "load_file"), ({"_class_name": "_private"}, "load_file"),
        ({"architectures": ["os\nimport sys"]}, "load_file"), ({"architectures": "ViT"}, "load_file"),
        ({"architectures": []}, "load_file"), ([1, 2], "load_file"),
    ):  # fmt: skip
        (converted / "config.json").write_text(json.dumps(config))
        assert expected in snippet(payload(converted), "me/x")
    (converted / "config.json").write_text("{" * 100_000)
    assert "load_file" in snippet(payload(converted), "me/x")


def test_sizes_that_a_config_tells_of_a_part_alone_are_not_taken_for_the_new_ones(tmp_path):
    """CLIP's and BLIP's, whose own config stays for the old sizes: transformers alone cannot load the new weights."""
    patch = "vision_model.embeddings.patch_embedding"
    folder = tmp_path / "in"
    folder.mkdir()
    save_file({f"{patch}.weight": np.ones((8, 3, 4, 4), np.float32)}, folder / "model.safetensors")
    vision = {"model_type": "clip_vision_model", "patch_size": 4, "image_size": 16}
    config = {"architectures": ["CLIPModel"], "model_type": "clip", "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    hints = rk.Hints(stride={patch: 4}, padding={patch: 0}, mode={patch: "absorb"})
    rk.convert(folder, tmp_path / "out", scale=2, hints=hints)
    found = payload(tmp_path / "out")
    assert library_of(found) == "rekernel"
    assert "rkt.load_pretrained" in snippet(found, "me/x")


@pytest.mark.parametrize(
    "broken",
    [[], {}, {"size": 3}, {**VERIFIED, "error": "x"}, {**VERIFIED, "error": float("nan")},
     {**VERIFIED, "size": ["<b>"]}, {**VERIFIED, "scores": {"original": {}}}],
)  # fmt: skip
def test_only_what_verify_prints_is_taken_for_a_measurement(broken):
    with pytest.raises(RekernelError, match="rekernel verify --json"):
        checked_verification(broken)


def test_a_measurement_comes_from_a_file_too(converted, tmp_path):
    (tmp_path / "v.json").write_text(json.dumps(VERIFIED))
    assert "## Measured" in push(converted, "me/x", verified=tmp_path / "v.json", dry_run=True).card
    for text, word in (("{", "not JSON"), ("[]", "verify --json")):
        (tmp_path / "v.json").write_text(text)
        with pytest.raises(RekernelError, match=word):
            push(converted, "me/x", verified=tmp_path / "v.json", dry_run=True)


def test_a_link_to_a_licence_file_of_the_source_becomes_an_address(converted):
    (converted / "README.md").write_bytes(card(license="other", license_name="foo", license_link="LICENSE.md"))
    front, _ = parsed(push(converted, "me/x", base_model="org/base", dry_run=True).card)
    assert front["license_link"] == "https://huggingface.co/org/base/blob/main/LICENSE.md"
    (converted / "LICENSE.md").write_text("foo")
    front, _ = parsed(push(converted, "me/x", base_model="org/base", dry_run=True).card)
    assert front["license_link"] == "LICENSE.md"
