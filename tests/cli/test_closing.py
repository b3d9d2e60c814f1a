"""What the commands call what they read and wrote: titles of plans, and the closing line of a conversion."""

import json
import os
import re
import shlex
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rekernel.escape import shell_word

from .conftest import weights


def ok(result):
    assert result.exit_code == 0, result.stderr
    return result.stdout


def closing(text):
    """The lines after the one that says what was written."""
    assert text.startswith("Wrote ")
    return " ".join(text.splitlines()[1:])


def test_components_of_a_pipeline_are_titled_by_their_path_however_the_folder_is_written(run, pipeline):
    plan = ok(run("plan", f"{pipeline}/", "--scale", "2"))
    assert plan.startswith(f"{pipeline}/unet: ")
    assert plan == ok(run("plan", pipeline, "--scale", "2"))
    both = ("--component", "unet", "--component", "vae")
    dry = ok(run("convert", f"{pipeline}//", pipeline.with_name("out"), "--scale", "2", "--dry-run", *both))
    assert re.findall(rf"^{re.escape(str(pipeline))}\S*:", dry, re.MULTILINE) == [
        f"{pipeline}/unet:", f"{pipeline}/vae:",
    ]  # fmt: skip


def test_a_checkpoint_says_the_loader_and_the_layers(run, checkpoint, tmp_path):
    said = closing(ok(run("convert", checkpoint, tmp_path / "out.safetensors", "--scale", "2")))
    ours = (
        f"rekernel.torch.load(model, {str(tmp_path / 'out.safetensors')!r}) loads it into the model as it was trained"
    )
    assert (
        said.startswith(ours)
        and "needs a model with the new kernels, strides and padding, which `rekernel inspect" in said
    )
    listed = ok(run("inspect", tmp_path / "out.safetensors")).split("Layers, before -> after:")[1]
    assert "kernel 3, stride 1, padding 1 -> " in listed and listed.rstrip().endswith(": conv1")
    assert "conv1.weight" in load_file(tmp_path / "out.safetensors")
    grid = ("--linear-grid", "fc=16,4,4", "--include", "fc.weight")
    said = closing(ok(run("convert", checkpoint, tmp_path / "fc.safetensors", "--scale", "2", *grid)))
    loads = "Another loader (safetensors.torch.load_file) needs a model with the new shapes."
    check = f"rekernel verify {checkpoint} {tmp_path / 'fc.safetensors'} --model MODULE:NAME --input CxHxW"
    assert (
        f"{loads} convert saw only tensor names, not the model's code, so check the result with the model: " in said
        and check in said
    )
    said = closing(ok(run("convert", checkpoint, tmp_path / "half.safetensors", "--scale", "1", "--dtype", "F16")))
    assert said == ""


def test_a_pipeline_says_the_loader_of_pipelines(run, pipeline, tmp_path):
    said = closing(ok(run("convert", pipeline, tmp_path / "out", "--scale", "2")))
    assert said == f"It loads with rekernel: rekernel.diffusion.load_pipeline({str(tmp_path / 'out')!r})"


def test_an_adapter_says_the_model_that_it_fits(run, tmp_path):
    layer = "lora_unet_down_blocks_0_downsamplers_0_conv"
    adapter = {f"{layer}.lora_down.weight": (4, 8, 3, 3), f"{layer}.lora_up.weight": (8, 4, 1, 1)}
    save_file({name: np.ones(shape, np.float32) for name, shape in adapter.items()}, tmp_path / "lora.safetensors")
    said = closing(ok(run("convert", tmp_path / "lora.safetensors", tmp_path / "out.safetensors", "--scale", "2")))
    assert "into the model that is converted with the same options" in said and "layers" not in said


@pytest.mark.parametrize("code", ["pipeline", "component"])
def test_a_pipeline_with_code_of_its_own_says_so(run, pipeline, tmp_path, code):
    index = json.loads((pipeline / "model_index.json").read_text())
    if code == "pipeline":
        index["_class_name"] = ["pipeline", "Mine"]
    else:
        index["vae"] = ["my_vae", "Mine"]
        (pipeline / "vae" / "my_vae.py").write_text("class Mine: ...\n")
    (pipeline / "model_index.json").write_text(json.dumps(index))
    said = closing(ok(run("convert", pipeline, tmp_path / "out", "--scale", "2")))
    assert f"load_pipeline({str(tmp_path / 'out')!r}, trust_remote_code=True)" in said
    assert "runs the Python code" in said


def test_a_folder_whose_configuration_tells_all_says_from_pretrained(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=4
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "in")
    said = closing(ok(run("convert", tmp_path / "in", tmp_path / "out", "--scale", "2")))
    loads = f"It loads as before, for images of the new size: ViTModel.from_pretrained({str(tmp_path / 'out')!r})"
    assert said.startswith(f"{loads} convert saw only tensor names, not the model's code, so check the result: ")
    assert transformers.AutoModel.from_pretrained(tmp_path / "out").config.image_size == 32
    said = closing(ok(run("convert", tmp_path / "in", tmp_path / "other", "--scale", "2", "--mode", "supersample")))
    ours = f"rekernel.torch.load_pretrained({str(tmp_path / 'other')!r}) loads it. ViTModel.from_pretrained does not"
    assert said.startswith(ours)


def test_a_folder_whose_configuration_tells_its_sizes_elsewhere_does_not(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vision = {**small, "image_size": 16, "patch_size": 4}
    config = transformers.CLIPConfig(vision_config=vision, text_config={**small, "vocab_size": 9}, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "in")
    patch = "vision_model.embeddings.patch_embedding"
    told = ("--stride", f"{patch}=4", "--padding", f"{patch}=0", "--mode", f"{patch}=absorb")
    only = ("--include", f"{patch}.weight")
    said = closing(ok(run("convert", tmp_path / "in", tmp_path / "out", "--scale", "2", *told, *only)))
    call, rest = said.split(" loads it. ", 1)
    assert call == f"rekernel.torch.load_pretrained({str(tmp_path / 'out')!r})" and rest.startswith("CLIPModel.from_")
    import rekernel.torch

    loaded = eval(call, {"rekernel": rekernel})
    assert loaded.vision_model.embeddings.patch_embedding.kernel_size == (8, 8)


def test_an_onnx_model_says_its_runtime(run, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from onnx import helper

    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, 1, [1, channels, 8, 8]) for name, channels in (("x", 3), ("y", 4)))
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], "g", [x], [y], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, tmp_path / "m.onnx")
    text = ok(run("convert", tmp_path / "m.onnx", tmp_path / "out.onnx", "--scale", "2"))
    assert "safetensors" not in text
    line = closing(text).removeprefix("It runs as before, on images of the new size: ")
    session = eval(line, {"onnxruntime": onnxruntime})
    assert session.get_inputs()[0].shape == [1, 3, 16, 16]
    dry = ok(run("convert", tmp_path / "m.onnx", tmp_path / "none.onnx", "--scale", "2", "--dry-run"))
    assert dry.startswith(f"{tmp_path}/m.onnx: ONNX graph; scale 2") and "Dry run: nothing was written." in dry


def test_commands_in_messages_are_words_of_the_shell(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(weights(), "my net.safetensors")
    said = run("convert", "my net.safetensors", "it's.safetensors", "--scale", "2", "--mode", "supersample")
    command = next(line for line in said.stdout.splitlines() if line.startswith("rekernel verify"))
    assert shlex.split(command)[2:4] == ["my net.safetensors", "it's.safetensors"]
    assert "`rekernel inspect 'it'\"'\"'s.safetensors'` lists" in said.stdout


@pytest.mark.parametrize(
    "name", ["a b", "it's", "$HOME", "-x", "a\x1b[2Jb", "new\nline", "b\u202e", "\udcc3\udcb6", "\\n"]
)
def test_a_shell_reads_back_the_name(name):
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {shell_word(name)}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    ).stdout
    assert printed.removeprefix(b"./") == os.fsencode(name) and shell_word(name).isprintable()
