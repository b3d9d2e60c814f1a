"""Folders that `save_pretrained` of a rescaled model writes: opened again, in every form in which it writes them."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel import RekernelError
from rekernel.checkpoint.open_local import open_checkpoint
from rekernel.hub.contents import payload
from rekernel.hub.loading_code import snippet

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VISION = {**SMALL, "image_size": 16, "patch_size": 4}
CONFIGS = {
    "ViTModel": VISION,
    "Dinov2Model": VISION,
    "DeiTModel": VISION,
    "CLIPVisionModel": VISION,
    "SwinModel": {
        "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4,
    },
    "ResNetModel": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}  # fmt: skip


def made(kind: str, **more: object) -> nn.Module:
    torch.manual_seed(0)
    of = getattr(transformers, kind)
    return of(of.config_class(**{**CONFIGS[kind], **more})).eval()


def unet(**more: object) -> nn.Module:
    torch.manual_seed(0)
    config = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (4, 8),
        "norm_num_groups": 2, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }  # fmt: skip
    return diffusers.UNet2DModel(**{**config, **more}).eval()


@pytest.fixture(scope="module")
def larger() -> nn.Module:
    return rkt.rescale(unet(), 2, {"sample": torch.zeros(1, 1, 8, 8), "timestep": torch.tensor(1)})


def answer(model: nn.Module) -> torch.Tensor:
    of = model.dtype
    x = torch.randn(1, 1 if hasattr(model, "conv_in") else 3, *(2 * [32]), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        given = model(x[..., :16, :16].to(of), 1) if hasattr(model, "conv_in") else model(x.to(of))
    return given[0]


def section(folder: Path) -> str:
    return (folder / "README.md").read_text() if (folder / "README.md").exists() else ""


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "ResNetModel"])
def test_a_config_that_says_the_new_sizes_loads_by_transformers_alone(kind, tmp_path):
    large = rkt.rescale(made(kind), 2, torch.zeros(1, 3, 16, 16))
    large.save_pretrained(tmp_path)
    for again in (type(large).from_pretrained(tmp_path), rkt.load_pretrained(tmp_path), rkt.load(made(kind), tmp_path)):
        assert torch.equal(answer(again), answer(large))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["image_size"] == 32 and "_rekernel" not in config and not section(tmp_path)
    assert rk.inspect(tmp_path).recipe.plan.scale == (2.0, 2.0)
    with pytest.raises(RekernelError, match="was rescaled already"):
        rk.convert(tmp_path, tmp_path / "out", scale=2)
    rkt.load_pretrained(tmp_path).save_pretrained(tmp_path / "second")
    assert torch.equal(answer(rkt.load_pretrained(tmp_path / "second")), answer(large))
    assert rk.inspect(tmp_path / "second").recipe.plan == rk.inspect(tmp_path).recipe.plan
    assert not section(tmp_path / "second")


@pytest.mark.parametrize(
    "kind, mode", [("ResNetModel", "auto"), ("ViTModel", "supersample"), ("CLIPVisionModel", "supersample")]
)
def test_a_config_that_cannot_say_it_holds_the_plan_and_a_readme_says_so(kind, mode, tmp_path):
    size = 32 if kind == "ResNetModel" else 16
    large = rkt.rescale(made(kind), 2, torch.zeros(1, 3, size, size), mode=mode)
    large.save_pretrained(tmp_path)
    assert "_rekernel" not in large.config.to_dict()  # in the file alone
    for again in (rkt.load_pretrained(tmp_path), rkt.load(made(kind), tmp_path)):
        assert torch.equal(answer(again), answer(large))
    with pytest.raises(RuntimeError):
        type(large).from_pretrained(tmp_path)
    assert f"{kind}.from_pretrained` does not load them right" in section(tmp_path)
    with pytest.raises(RekernelError, match="rescaled already"):
        rk.convert(tmp_path, tmp_path / "out", scale=2)
    assert f'model = rkt.load_pretrained("me/x")  # a {kind}\n' in snippet(payload(tmp_path), "me/x")  # of the card


@pytest.mark.parametrize("form", ["plain", "factored"])
@pytest.mark.parametrize("method", ["auto", "dilate"])
def test_every_form_of_layers_comes_back(form, method, tmp_path):
    example = {"sample": torch.zeros(1, 1, 8, 8), "timestep": torch.tensor(1)}
    large = rkt.rescale(unet(), 2, example, form=form, method=method)
    large.save_pretrained(tmp_path)
    assert torch.equal(answer(rkt.load_pretrained(tmp_path)), answer(large))
    assert "does not load them right" in section(tmp_path)  # also where the shapes are those of the source


@pytest.mark.parametrize(
    "options",
    [{"max_shard_size": 8000}, {"variant": "fp16"}, {"safe_serialization": False}],
    ids=lambda o: next(iter(o)),
)
def test_every_way_of_saving_comes_back(larger, options, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    (tmp_path / "notes.safetensors").write_bytes(b"not a model")
    larger.save_pretrained(tmp_path, **options)
    (tmp_path / "notes.safetensors").unlink()
    larger.save_pretrained(tmp_path, **options)  # into the folder that exists
    assert section(tmp_path).startswith("# Mine\n") and section(tmp_path).count("## How to load") == 1
    pickled = {"allow_pickle": not options.get("safe_serialization", True)}
    for again in (rkt.load_pretrained(tmp_path, **pickled), rkt.load(unet(), tmp_path, **pickled)):
        assert torch.equal(answer(again), answer(larger))
    for shard in tmp_path.glob("*.safetensors"):
        with open_checkpoint(shard) as opened:
            assert {"format", "rekernel"} <= opened.metadata.keys()
    if pickled["allow_pickle"]:
        with pytest.raises(RekernelError, match="pass allow_pickle=True"):
            rkt.load(unet(), tmp_path)


def test_copies_pickles_trained_and_cast_models_save_themselves(larger, tmp_path):
    copied = pickle.loads(pickle.dumps(copy.deepcopy(larger)))
    with torch.no_grad():
        copied.conv_in.weight.mul_(2)
    assert inspect.signature(copied.save_pretrained) == inspect.signature(unet().save_pretrained)
    copied.save_pretrained(tmp_path / "trained")
    first = rkt.load_pretrained(tmp_path / "trained")
    assert torch.equal(answer(first), answer(copied)) and not torch.equal(answer(first), answer(larger))
    first.half().save_pretrained(tmp_path / "half")  # saved a second time, from what was loaded
    second = rkt.load_pretrained(tmp_path / "half")
    assert second.dtype == torch.float16 and torch.equal(second.conv_in.weight, first.conv_in.weight)
    assert rkt.load_pretrained(tmp_path / "half", dtype=torch.float32).dtype == torch.float32


def test_rescaling_what_from_pretrained_loaded_composes(tmp_path):
    once = rkt.rescale(made("ViTModel"), 2, torch.zeros(1, 3, 16, 16))
    once.save_pretrained(tmp_path / "once")
    twice = rkt.rescale(transformers.ViTModel.from_pretrained(tmp_path / "once"), 2, torch.zeros(1, 3, 32, 32))
    twice.save_pretrained(tmp_path / "twice")
    assert json.loads((tmp_path / "twice" / "config.json").read_text())["image_size"] == 64
    again = transformers.ViTModel.from_pretrained(tmp_path / "twice")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(x)[0], twice(x)[0])


def test_a_model_that_was_not_rescaled_has_no_such_attribute(tmp_path):
    model = unet()
    with pytest.raises(RekernelError):
        rkt.rescale(model, 2, torch.zeros(1, 5), inplace=True)
    assert "save_pretrained" not in vars(model)
    assert "save_pretrained" not in vars(rkt.rescale(nn.Sequential(nn.Conv2d(3, 4, 3)), 2, torch.zeros(1, 3, 8, 8)))
    model.save_pretrained(tmp_path)
    with pytest.raises(RekernelError, match=r"has no recipe.*load it as any other file"):
        rkt.load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"_class_name": "os"}, "diffusers has no model os"),
        ({"_class_name": "DDIMScheduler"}, "diffusers has no model DDIMScheduler"),
        ({"architectures": ["AutoConfig"]}, "transformers has no model AutoConfig"),
        ({"hidden": 1}, "names no class of transformers or diffusers; pass model="),
        ({"_class_name": "UNet2DModel", "layers_per_block": "x"}, "cannot build a UNet2DModel from this config"),
    ],
)
def test_a_config_that_names_no_model_says_so(larger, tmp_path, config, said):
    rkt.save(larger, tmp_path / "model.safetensors")
    with pytest.raises(RekernelError, match="is not there, to build a model from; pass model="):
        rkt.load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RekernelError, match=said):
        rkt.load_pretrained(tmp_path)
    assert torch.equal(answer(rkt.load_pretrained(tmp_path, model=unet())), answer(larger))


def test_a_folder_that_the_command_wrote_opens_without_a_model(tmp_path):
    unet().save_pretrained(tmp_path / "in")
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2)
    assert torch.equal(answer(rkt.load_pretrained(tmp_path / "out")), answer(rkt.load(unet(), tmp_path / "out")))


def test_a_class_of_the_user_s_is_built_by_the_user(tmp_path):
    hub = pytest.importorskip("huggingface_hub")

    class Net(nn.Module, hub.PyTorchModelHubMixin):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3))

    large, x = rkt.rescale(Net(5), 2, torch.zeros(1, 3, 16, 16)), torch.rand(1, 3, 32, 32)
    large.save_pretrained(tmp_path)
    assert 'repository", model=Net(...))' in section(tmp_path)
    assert torch.equal(rkt.load_pretrained(tmp_path, model=Net(5))(x), large(x))
    with pytest.raises(RekernelError, match="names no class of transformers or diffusers; pass model="):
        rkt.load_pretrained(tmp_path)


def test_a_full_disk_leaves_the_folder_open_by_its_config(larger, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0})())
    with pytest.warns(UserWarning, match=r"without the recipe in their metadata .* keep config\.json beside them"):
        larger.save_pretrained(tmp_path)
    assert torch.equal(answer(rkt.load_pretrained(tmp_path)), answer(larger))


def test_an_image_resampled_in_front_comes_back(tmp_path):
    large = rkt.rescale(made("ResNetModel"), 1.25, torch.zeros(1, 3, 32, 32), mode="absorb")
    assert large.rekernel_plan.resamples
    large.save_pretrained(tmp_path)
    x = torch.rand(1, 3, 40, 40)
    assert torch.equal(rkt.load_pretrained(tmp_path)(x)[0], large(x)[0])
    assert "does not load them right" in section(tmp_path)


def test_more_patches_of_the_same_size_load_by_transformers_alone(tmp_path):
    patch = "*patch_embeddings*"
    large = rkt.rescale(made("ViTModel"), 1.5, torch.zeros(1, 3, 16, 16), modes={patch: "supersample"}, exclude=[patch])
    large.save_pretrained(tmp_path)
    x = torch.rand(1, 3, 24, 24)
    assert torch.equal(transformers.ViTModel.from_pretrained(tmp_path)(x)[0], large(x)[0]) and not section(tmp_path)


@pytest.mark.parametrize("name", ["x.bin", "x-dir"])
def test_save_refuses_a_name_that_is_not_that_of_a_safetensors_file(larger, tmp_path, name):
    with pytest.raises(RekernelError, match=r"its name ends in \.safetensors; pass another name"):
        rkt.save(larger, tmp_path / name)
    assert not list(tmp_path.iterdir())
