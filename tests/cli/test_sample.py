"""`rekernel sample`: the pictures that a pipeline itself gives, what acts on them, and one line for the rest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rekernel as rk

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from rekernel.diffusion import UpsampleGuidance, load_pipeline, record  # noqa: E402

from ..docs import makers  # noqa: E402

BLOCKS = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, **BLOCKS}
GLYPHS = Path(__file__).parents[2] / "examples" / "glyph_diffusion"
QUICK = ("--steps", 2, "--count", 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """sd15 and animate (with a prompt), ldm (latents without), dit (classes), pixels."""
    root = tmp_path_factory.mktemp("pipelines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        makers.video()
    torch.manual_seed(0)
    latents, pixels = (diffusers.UNet2DModel(sample_size=n, in_channels=3, out_channels=3, **SMALL) for n in (8, 16))
    coders = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vqvae = diffusers.VQModel(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=3, **coders)
    diffusers.LDMPipeline(vqvae, latents, diffusers.DDIMScheduler()).save_pretrained(root / "ldm")
    diffusers.DDIMPipeline(pixels, diffusers.DDIMScheduler()).save_pretrained(root / "pixels")
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL.from_pretrained(root / "sd15" / "vae")
    diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler()).save_pretrained(root / "dit")
    return root


@pytest.fixture
def sampled(run, tmp_path):
    """The first picture of a grid of one, and what was said."""

    def sample(folder, *options):
        done = run("sample", folder, *QUICK, "--out", tmp_path / "grid.png", "--force", *options)
        assert done.exit_code == 0, done.output
        size = done.stdout.split(" of ")[-1].split(" in ")[0]
        width, height = map(int, size.split("x"))
        return np.asarray(Image.open(tmp_path / "grid.png").resize((width, height), Image.Resampling.NEAREST)), done

    return sample


def drawn(pipe, *prompt, **options):
    """One picture by the pipeline's own call."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    images = pipe(*prompt, generator=noise, num_inference_steps=2, output_type="np", **options).images
    return np.rint(np.clip(images[0], 0, 1) * 255)


def loaded(folder):
    return diffusers.DiffusionPipeline.from_pretrained(folder)


def same(picture, other):
    assert picture.shape == other.shape
    return np.abs(picture.astype(float) - other).max() <= 1


def test_latents_are_decoded_though_their_network_is_one_of_pixels(folders, sampled):
    picture, _ = sampled(folders / "ldm")
    assert same(picture, drawn(loaded(folders / "ldm")))


def test_guidance_on_latents_has_the_defaults_of_latents_and_their_size(folders, sampled):
    picture, done = sampled(folders / "ldm", "--size", 32, "--guidance", "upsample")
    assert "scale=2; on UNet2DModel of LDMPipeline" in done.stdout
    pipe = loaded(folders / "ldm")
    pipe.unet.register_to_config(sample_size=16)
    plain = drawn(pipe)
    with UpsampleGuidance(2, theta=1.0, eta=0.6, enlarge="nearest").attach(pipe):
        assert same(picture, drawn(pipe))
    assert not same(picture, plain)


def test_a_recorded_folder_of_pixels_is_sampled_as_load_pipeline_loads_it(folders, sampled, tmp_path):
    record(folders / "pixels", tmp_path / "out", 2.0, guidance={}, kernels={})
    picture, done = sampled(tmp_path / "out")
    assert "theta 1.5, eta 1, U cubic" in done.stdout
    assert same(picture, drawn(load_pipeline(tmp_path / "out")))
    assert same(picture, sampled(folders / "pixels", "--size", 32, "--guidance", "upsample", "--kernels", "optimal")[0])


def test_what_is_typed_for_a_recorded_folder_acts_at_its_new_size(folders, sampled, tmp_path):
    record(folders / "sd15", tmp_path / "out", 2.0, guidance={"theta": 1.0}, kernels={})
    recorded, _ = sampled(tmp_path / "out", "--prompt", "cat")
    pipe = load_pipeline(tmp_path / "out")
    assert same(recorded, drawn(pipe, "cat"))
    typed, done = sampled(tmp_path / "out", "--prompt", "cat", "--guidance", "upsample,theta=2", "--kernels", "optimal")
    assert "theta=2" in done.stdout
    pipe.rekernel.guidance.theta = 2.0
    assert same(typed, drawn(pipe, "cat")) and not same(typed, recorded)
    none, done = sampled(tmp_path / "out", "--prompt", "cat", "--guidance", "none")
    pipe.rekernel.guidance.remove()
    assert same(none, drawn(pipe, "cat")) and "Guidance" not in done.stdout and "Kernels" in done.stdout


def test_a_recorded_folder_at_another_size_is_scaled_by_that_size(folders, sampled, tmp_path):
    record(folders / "pixels", tmp_path / "out", 2.0, guidance={"theta": 1.2})
    three, done = sampled(tmp_path / "out", "--size", 48)
    assert "UpsampleGuidance(scale=3, theta=1.2" in done.stdout and three.shape == (48, 48, 3)
    trained, done = sampled(tmp_path / "out", "--size", 16)
    assert "Guidance" not in done.stdout
    assert same(trained, drawn(loaded(folders / "pixels")))


def test_classes_reach_a_pipeline_whose_call_takes_them(folders, sampled):
    # 10 classes have no number for none, which DiTPipeline's own guidance would ask for.
    third, _ = sampled(folders / "dit", "--cfg", 1, "--classes", "3")
    pipe = loaded(folders / "dit")
    assert same(third, drawn(pipe, class_labels=[3], guidance_scale=1.0))
    assert not same(third, sampled(folders / "dit", "--cfg", 1, "--classes", "1")[0])


def test_weights_of_one_variant_alone_are_sampled_in_float32(folders, sampled, tmp_path):
    loaded(folders / "sd15").to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    picture, _ = sampled(tmp_path / "half", "--prompt", "cat")
    assert picture.shape == (16, 16, 3)
    loaded(folders / "pixels").to(torch.float16).save_pretrained(tmp_path / "dots", variant="fp16")
    assert sampled(tmp_path / "dots")[0].shape == (16, 16, 3)


LARGE = 100_000_000  # pixels a side: more memory than any machine has
FAILURES = [
    ("pixels", ("--size", 33), "UNet2DModel on 33x33 pixels: RuntimeError", "it takes multiples of 2"),
    ("pixels", ("--size", 33, "--guidance", "upsample"), "UNet2DModel on 33x33 pixels", "multiples of 2"),
    ("pixels", ("--size", LARGE), "not enough memory", f"{LARGE}x{LARGE}"),
    ("pixels", ("--steps", 5000), "num_inference_steps", "scheduling_ddim.py"),
    ("pixels", ("--prompt", "cat"), "--prompt", "does not take text"),
    ("pixels", ("--classes", "1"), "--classes", "no classes"),
    ("pixels", ("--cfg", 2), "--cfg", "no classes"),
    ("pixels", ("--guidance", "upsample"), "not above the trained size", "--size"),
    ("pixels", ("--size", "40x12", "--guidance", "upsample"), "--size 40x12", "below the trained size 16x16"),
    (GLYPHS, ("--prompt", "cat"), "--prompt", "does not take text"),
    (GLYPHS, ("--classes", "3-999999999"), "--classes", "0 to 10"),
    ("sd15", ("--prompt", "cat", "--guidance", "upsample"), "not above the trained size", "--size"),
    ("sd15", ("--prompt", "cat", "--kernels", "optimal"), "not above the trained size", "--size"),
    ("sd15", ("--prompt", "cat", "--classes", "1"), "--classes: StableDiffusionPipeline", "omit --classes"),
    ("sd15", ("--prompt", "cat", "--size", LARGE), "not enough memory", f"{LARGE}x{LARGE}"),
    ("sd15", (), "--prompt: StableDiffusionPipeline draws what a text says", "pass --prompt TEXT"),
    ("ldm", ("--size", 33), "--size 33x33", "multiples of 2 pixels"),
    ("dit", ("--cfg", 1, "--classes", "10"), "--classes", "0 to 9"),
    ("animate", ("--prompt", "cat"), "AnimateDiffPipeline makes videos", "draws pictures"),
]


@pytest.mark.parametrize(("folder", "options", "says", "more"), FAILURES)
def test_what_cannot_be_sampled_is_one_line(folders, run, tmp_path, folder, options, says, more):
    done = run("sample", folders / folder, *QUICK, "--out", tmp_path / "grid.png", *options)
    assert done.exit_code == 1, done.exception
    assert says in done.stderr and more in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("name", ["KarrasVeScheduler", "FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler"])
def test_a_scheduler_that_steps_otherwise_is_named(folders, run, tmp_path, name):
    shutil.copytree(folders / "pixels", tmp_path / "other")
    getattr(diffusers, name)().save_pretrained(tmp_path / "other" / "scheduler")
    index = json.loads((tmp_path / "other" / "model_index.json").read_text())
    index["scheduler"][1] = name
    (tmp_path / "other" / "model_index.json").write_text(json.dumps(index))
    done = run("sample", tmp_path / "other", *QUICK, "--out", tmp_path / "grid.png")
    assert (done.exit_code, done.stderr.startswith(f"Error: {name}: ")) == (1, True)
    assert len(done.stderr.splitlines()) == 1


def test_a_network_without_a_trained_size_needs_one(folders, run, sampled, tmp_path):
    shutil.copytree(folders / "pixels", tmp_path / "other")
    path = tmp_path / "other" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": None}))
    assert "pass --size" in run("sample", tmp_path / "other", "--out", tmp_path / "a.png").stderr
    guided = run("sample", tmp_path / "other", "--size", 32, "--guidance", "upsample", "--out", tmp_path / "a.png")
    assert guided.exit_code == 1 and "the trained size" in guided.stderr
    assert same(sampled(tmp_path / "other", "--size", 16)[0], drawn(loaded(folders / "pixels")))


@pytest.mark.parametrize("folder", ["pixels", "ldm"])
@pytest.mark.parametrize("option", [("--guidance", "upsample"), ("--kernels", "optimal")])
def test_rescaled_weights_are_not_rescaled_again(folders, run, tmp_path, folder, option):
    rk.convert(folders / folder, tmp_path / "out", scale=2)
    for size in ((), ("--size", 64)):
        done = run("sample", tmp_path / "out", *QUICK, *size, *option, "--out", tmp_path / "grid.png")
        assert (done.exit_code, "rescaled already" in done.stderr) == (1, True), done.output


USAGE = [
    (("--until", 0.5), "--kernels"),
    (("--layers", "all"), "--kernels"),
    (("--kernels", "none", "--until", 0.5), "--kernels"),
    (("--cfg", "nan"), "'nan'"),
    (("--cfg", "inf"), "'inf'"),
    (("--seed", "9" * 30), "18 digits"),
    (("--seed", "-1"), "18 digits"),
    (("--classes", ""), "0,3,5"),
    (("--classes", "9-0"), "0,3,5"),
    (("--classes", "3-99999999999"), "0,3,5"),
    (("--out", "b.jpg"), "does not end in .png"),
]


@pytest.mark.parametrize(("options", "says"), USAGE)
def test_wrong_values_are_usage_errors(run, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    done = run("sample", GLYPHS, *QUICK, *options)
    assert (done.exit_code, says in " ".join(done.stderr.split())) == (2, True), done.output
    assert not [*tmp_path.iterdir()]
