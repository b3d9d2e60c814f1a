"""`rekernel verify` on folders of pictures and of models: preprocessing, labels, and one line for what is wrong."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import rekernel as rk
from rekernel_cli.main import main
from rekernel_cli.verifying.pictures import read_data
from rekernel_cli.verifying.preprocessing import Preprocessing, read_preprocessing


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder with the class, the image processor and the names of its classes; its conversion; pictures."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "owl"}
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).eval().save_pretrained(folder / "vit")
    processor = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
                 "size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 3}  # fmt: skip
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    rk.convert(folder / "vit", folder / "vit-2x", scale=2)
    draw = np.random.default_rng(0)
    for name in ("dog", "owl"):
        (folder / "photos" / name).mkdir(parents=True)
        for number, ending in enumerate(("png", "jpg", "webp")):
            pixels = draw.integers(0, 256, (80, 100, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.{ending}")
    return folder


def verify(folder, *more):
    words = ["verify", str(folder / "vit"), str(folder / "vit-2x"), *map(str, more)]
    return CliRunner().invoke(main, words)


def found(folder, *more):
    result = verify(folder, *more, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_folder_needs_neither_model_nor_input_and_its_pictures_no_numbers(vit):
    result = found(vit, "--data", vit / "photos")
    assert (result["size"], result["new_size"], result["count"]) == ([32, 32], [64, 64], 6)
    assert result["verdict"]["grade"] == "same" and result["kept"] == 1
    assert set(result["scores"]) == {"original", "converted"} and result["notes"] == []  # labels by names of folders
    assert "Verdict: The same answers." in verify(vit, "--data", vit / "photos").stdout


def test_pictures_are_prepared_as_the_files_beside_the_weights_say(vit):
    how = read_preprocessing(vit / "vit")
    assert (how.mean, how.std, how.size) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (32, 32))
    assert how.around == pytest.approx(36 / 32)
    data = read_data(vit / "photos" / "dog" / "0.png", 3, (64, 64), how, most=9)
    processors = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    theirs = processors.ViTImageProcessorPil(
        image_mean=how.mean, image_std=how.std, resample=3, size={"height": 72, "width": 90}
    )(Image.open(vit / "photos" / "dog" / "0.png"), return_tensors="pt")["pixel_values"]
    middle = theirs[..., 4:68, 13:77]
    assert torch.allclose(data.images, middle, atol=2e-2)


def test_options_replace_what_files_say(vit):
    how = read_preprocessing(vit / "vit").with_options((0.1,), None, 1.5)
    assert (how.mean, how.std, how.around) == ((0.1,), (0.2, 0.3, 0.4), 1.5)
    assert found(vit, "--data", vit / "photos", "--mean", "0.1", "--std", "1,1,1", "--size", "70")["count"] == 6
    refused = verify(vit, "--data", vit / "photos", "--mean", "0.1,0.2")
    assert refused.exit_code == 1 and "2 numbers for 3 channels" in refused.stderr
    assert "smaller than the new size" in verify(vit, "--data", vit / "photos", "--size", "10").stderr


def test_timm_says_it_in_its_own_words(tmp_path):
    cfg = {"input_size": [3, 24, 24], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 2], "crop_pct": 0.8,
           "interpolation": "bilinear"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": cfg}))
    how = read_preprocessing(tmp_path)
    assert (how.mean, how.std, how.size, how.filter) == ((0.1, 0.2, 0.3), (1, 1, 2), (24, 24), 2)
    assert how.around == pytest.approx(1.25)


PLAIN = Preprocessing()


def test_bytes_become_numbers_of_0_to_1_and_floats_stay(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    bytes_, picture = (read_data(tmp_path / name, 3, (8, 8), PLAIN, most=9).images for name in ("a.npy", "a.png"))
    assert torch.equal(bytes_[:1], picture) and bytes_.shape == (5, 3, 8, 8)
    assert torch.allclose(bytes_, torch.from_numpy(pixels).movedim(-1, 1) / 255)
    floats = np.moveaxis(pixels, -1, 1).astype(np.float64)
    np.savez(tmp_path / "a.npz", images=floats, labels=np.arange(5))
    data = read_data(tmp_path / "a.npz", 3, (8, 8), Preprocessing(mean=(0.5,), origin="a.json"), most=9)
    assert torch.equal(data.images.double(), torch.from_numpy(floats)) and data.labels.tolist() == [0, 1, 2, 3, 4]
    np.save(tmp_path / "wide.npy", pixels.astype(np.uint16) * 257)
    assert torch.allclose(read_data(tmp_path / "wide.npy", 3, (8, 8), PLAIN, most=9).images, bytes_)
    Image.fromarray(pixels[0, ..., 0].astype(np.uint16) * 257).save(tmp_path / "wide.png")
    grey = read_data(tmp_path / "wide.png", 1, (8, 8), PLAIN, most=9).images
    assert torch.allclose(grey[0, 0], torch.from_numpy(pixels[0, ..., 0]) / 255)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    data = read_data(tmp_path / "a.png", 3, (8, 8), PLAIN, most=9)
    assert data.images[0, :, -1].min() == 1 and data.images[0, :, :-1].max() == 0


def test_small_and_many_pictures_are_named(vit, tmp_path):
    Image.fromarray(np.zeros((20, 90, 3), np.uint8)).save(tmp_path / "a.png")
    assert "1 of 1 pictures are smaller than 64x64" in found(vit, "--data", tmp_path)["notes"][0]
    few = found(vit, "--data", vit / "photos", "--limit", "4")
    assert few["count"] == 4 and "4 of 6 pictures" in few["notes"][0] and "scores" in few


def test_folders_of_classes_are_numbers_or_stand_in_order(tmp_path):
    for name in ("10", "2"):
        (tmp_path / "numbers" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "numbers" / name / "a.png")
    assert read_data(tmp_path / "numbers", 3, (8, 8), PLAIN, most=9).labels.tolist() == [10, 2]
    (tmp_path / "numbers" / "2").rename(tmp_path / "numbers" / "b")
    data = read_data(tmp_path / "numbers", 3, (8, 8), PLAIN, most=9)
    assert data.labels.tolist() == [0, 1] and "alphabetical order" in data.notes[0]
    other = read_data(tmp_path / "numbers", 3, (8, 8), PLAIN, most=9, numbers={"x": 0, "y": 1, "z": 2})
    assert other.labels is None and "are not the names of the model's classes" in other.notes[0]


def test_labels_come_from_a_file(vit, tmp_path):
    (tmp_path / "labels.txt").write_text("0\n1\n2\n0\n1\n2\n")
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2, 0, 1, 2]))
    both = [found(vit, "--data", vit / "photos", "--labels", tmp_path / f"labels.{end}") for end in ("txt", "npy")]
    assert both[0]["scores"] == both[1]["scores"]


def wrong_data(folder):
    np.save(folder / "words.npy", np.array(["a", "b"]))
    np.save(folder / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(folder / "small.npy", np.zeros((2, 3, 8, 8)))
    np.save(folder / "none.npy", np.zeros((0, 3, 64, 64)))
    np.save(folder / "nan.npy", np.full((2, 3, 64, 64), np.nan))
    np.save(folder / "large.npy", np.full((2, 3, 64, 64), 4000))
    np.savez(folder / "labels.npz", images=np.zeros((2, 3, 64, 64)), labels=np.zeros(3, int))
    np.savez(folder / "high.npz", images=np.zeros((2, 3, 64, 64)), labels=np.array([0, 3]))
    np.savez(folder / "other.npz", x=np.zeros(3))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "broken.npy").write_bytes(b"nothing")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04nothing")
    (folder / "text.csv").write_text("1,2")
    (folder / "empty").mkdir()
    (folder / "words").mkdir()
    (folder / "words" / "a\x1b[2J.txt").write_text("")
    (folder / "labels.txt").write_text("0\ncat\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "no such file or folder"),
        ("words.npy", "are not pixels"),
        ("objects.npy", "holds Python objects, which are not read"),
        ("small.npy", "do not fit 3 channels at (64, 64) or larger"),
        ("none.npy", "do not fit"),
        ("nan.npy", "not finite"),
        ("large.npy", "whole numbers from 4000 to 4000 are not pixels from 0 to 255"),
        ("labels.npz", "3 labels for 2 pictures"),
        ("high.npz", "label 3 is not one of the 3 classes, 0 to 2; check the labels of --data or --labels"),
        ("other.npz", "lacks an array `images`; it has x"),
        ("broken.png", "is not a picture that Pillow can read"),
        ("broken.npy", "is damaged"),
        ("broken.npz", "is damaged"),
        ("text.csv", "is neither a folder, a picture"),
        ("empty", "holds no pictures (.png"),
        ("words", "it has a\\x1b[2J.txt"),
    ],
)
def test_wrong_data_is_one_clear_line(vit, tmp_path, name, words):
    wrong_data(tmp_path)
    result = verify(vit, "--data", tmp_path / name)
    assert result.exit_code == 1 and words in result.stderr
    assert name in result.stderr or "label" in words
    assert len(result.stderr.strip().splitlines()) == 1 and "\x1b" not in result.stderr


def test_wrong_labels_and_folders_are_one_clear_line(vit, tmp_path):
    wrong_data(tmp_path)
    for more, words in (
        (("--data", vit / "photos", "--labels", tmp_path / "labels.txt"), "cat is not a class number"),
        (("--labels", tmp_path / "labels.txt"), "pass --data too"),
        (("--timesteps", "5"), "is not a denoiser"),
        (("--report", tmp_path / "no" / "a.html"), "no such folder for a.html"),
    ):
        result = verify(vit, *more)
        assert result.exit_code == 1 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    (tmp_path / "plain.safetensors").write_bytes((vit / "vit" / "model.safetensors").read_bytes())
    words = ["verify", str(tmp_path / "plain.safetensors"), str(vit / "vit-2x")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "put its config.json beside plain.safetensors, or pass --model" in result.stderr


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "names no class"),
        ({"architectures": ["NoSuchNet"]}, "transformers has no network NoSuchNet; pass --model"),
        ({"_class_name": "DDIMScheduler"}, "diffusers has no network DDIMScheduler"),
        ({"architecture": "resnet10t"}, "needs timm: install timm, or pass --model"),
    ],
)
def test_a_configuration_that_builds_nothing_names_the_way_out(vit, tmp_path, config, words):
    if "architecture" in config:
        try:
            import timm  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("timm is installed")
    (tmp_path / "model.safetensors").write_bytes((vit / "vit" / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = CliRunner().invoke(main, ["verify", str(tmp_path), str(vit / "vit-2x")])
    assert result.exit_code == 1 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1
