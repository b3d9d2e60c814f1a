"""One rule says which of several weights are a variant, for converting, copying, naming and loading."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import rekernel as rk
from rekernel.checkpoint.pipeline_folder import find_pipeline
from rekernel.checkpoint.variants import by_variant, chosen_weights, split_name, weights_of
from rekernel.conversion.downloads import copied_weights
from rekernel.errors import SeveralCheckpointsError

MODEL = "diffusion_pytorch_model"
WEIGHTS = {"a.weight": np.ones((4, 4, 3, 3), np.float32), "b.weight": np.ones((4, 4, 3, 3), np.float32)}


@pytest.fixture
def component(tmp_path):
    """A pipeline's UNet with weights of these names; an index has one shard."""

    def make(*names):
        folder = tmp_path / "pipeline" / "unet"
        folder.mkdir(parents=True)
        index = {"_class_name": "P", "unet": ["diffusers", "UNet2DModel"]}
        (folder.parent / "model_index.json").write_text(json.dumps(index))
        for name in names:
            if not name.endswith(".json"):
                save_file(WEIGHTS, folder / name)
                continue
            base, variant = split_name(name)
            shard = f"{base}{variant}-00001-of-00001.safetensors"
            save_file(WEIGHTS, folder / shard)
            (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(WEIGHTS, shard)}))
        return find_pipeline(folder.parent).components["unet"]

    return make


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (f"{MODEL}.mine.safetensors", (MODEL, ".mine")),  # any word behind a loader's name
        (f"{MODEL}.mine-00001-of-00002.safetensors", (MODEL, ".mine")),
        (f"{MODEL}-00001-of-00002.mine.safetensors", (MODEL, ".mine")),
        (f"{MODEL}.safetensors.index.mine.json", (MODEL, ".mine")),
        (f"{MODEL}.mine.safetensors.index.json", (MODEL, ".mine")),
        ("pytorch_model.mine.bin", ("pytorch_model", ".mine")),
        ("net.mine.safetensors", ("net.mine", "")),  # behind another name a common variant alone
        ("net.v2.fp16.safetensors", ("net.v2", ".fp16")),
        ("net.v2.safetensors.index.fp16.json", ("net.v2", ".fp16")),
        ("fp16.safetensors", ("fp16", "")),
        ("model-00001-of-00002.safetensors", ("model", "")),
    ],
)
def test_a_name_is_taken_apart_in_every_spelling(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize(
    "names",
    [
        (f"{MODEL}.safetensors", f"{MODEL}.mine.safetensors"),  # converting called these ambiguous
        (f"{MODEL}.safetensors", f"{MODEL}.mine.safetensors.index.json"),
        (f"{MODEL}.safetensors", "other.safetensors"),
    ],
)
def test_converting_and_loading_choose_the_same_weights(component, tmp_path, names):
    unet = component(*names)
    assert chosen_weights(unet) == weights_of(unet) == unet.folder / f"{MODEL}.safetensors"
    report = rk.convert(unet.folder.parent, tmp_path / "out", scale=2)
    assert (tmp_path / "out/unet" / f"{MODEL}.safetensors").is_file()
    assert Path("unet", names[1]) in report.skipped
    assert rk.inspect(unet.folder.parent).components["unet"].path == unet.folder / f"{MODEL}.safetensors"


@pytest.mark.parametrize(
    "names", [(f"{MODEL}.safetensors", f"{MODEL}.safetensors.index.json"), ("a.safetensors", "b.safetensors")]
)
def test_two_plain_ones_are_refused_wherever_one_is_chosen(component, names):
    unet = component(*names)
    assert len(by_variant(unet).get("", [])) in (0, 2)  # looking does not refuse
    for choose in (chosen_weights, weights_of):
        with pytest.raises(SeveralCheckpointsError, match="several checkpoints here"):
            choose(unet)


@pytest.mark.parametrize("name", [f"{MODEL}.safetensors.index.fp16.json", f"{MODEL}.fp16.safetensors.index.json"])
def test_a_component_that_is_copied_keeps_the_shards_of_its_one_variant(component, name):
    unet = component(name)
    assert {path.name for path in copied_weights(unet, unet.folder.parent)} == {
        name,
        f"{MODEL}.fp16-00001-of-00001.safetensors",
    }


def test_a_pickle_with_any_variant_is_left(component):
    unet = component()
    for name in ("pytorch_model.bin", "pytorch_model.mine.bin"):
        (unet.folder / name).touch()
    assert copied_weights(unet, unet.folder.parent) == {Path("unet/pytorch_model.bin")}


def test_repacking_spells_an_index_as_loaders_do(component, tmp_path):
    unet = component(f"{MODEL}.mine.safetensors")
    rk.convert(unet.folder / f"{MODEL}.mine.safetensors", tmp_path / "out", scale=2, max_shard_size=1000)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{MODEL}.safetensors.index.mine.json",
        f"{MODEL}.mine-00001-of-00002.safetensors",
        f"{MODEL}.mine-00002-of-00002.safetensors",
    }
