"""A cascade that a pipeline folder records: written, loaded, called, shown on the card, sampled on the command line."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade, Recorded, load_pipeline, record  # noqa: E402
from rekernel.diffusion.pipelines.attached_cascade import AttachedCascade  # noqa: E402
from rekernel.diffusion.pipelines.recorded_cascade import recorded_cascade  # noqa: E402
from rekernel.hub.sampling_facts import facts_of_record, what_is_recorded  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

from ..conftest import UNCONDITIONED, quiet  # noqa: E402
from .families import FAMILIES  # noqa: E402

runner = pytest.importorskip("click.testing").CliRunner()
image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pipeline") / "small"
    net = diffusers.UNet2DModel(**UNCONDITIONED)
    diffusers.DDIMPipeline(net, diffusers.DDIMScheduler()).save_pretrained(path)
    return path


def sampled(call):
    return call(generator=torch.Generator().manual_seed(1), num_inference_steps=4, output_type="np").images


def test_a_recorded_cascade_is_called_beside_the_pipeline(folder, tmp_path):
    record(folder, tmp_path / "out", 4.0, guidance={"theta": 1.2}, cascade=[0.5, 0.25])
    entry = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())["_rekernel"]
    assert entry["cascade"] == [0.5, 0.25]
    pipe = quiet(load_pipeline(tmp_path / "out"))
    assert "8x8 -> 16x16 at 0.5 -> 32x32 at 0.25, guided" in repr(pipe)
    found = sampled(pipe.rekernel.cascade)
    assert found.shape == (1, 32, 32, 3) and pipe.rekernel.cascade.passes > 1
    assert pipe.rekernel.guidance.attached  # put back
    from_noise = sampled(pipe)
    assert from_noise.shape == found.shape and np.abs(found - from_noise).max() > 1e-3
    pipe.rekernel.remove()
    assert np.array_equal(sampled(pipe.rekernel.cascade), found) and not pipe.rekernel.guidance.attached

    plain = quiet(diffusers.DiffusionPipeline.from_pretrained(folder))
    cascade = GuidedCascade(plain, scale=4, strength=[0.5, 0.25], guidance={"theta": 1.2})
    assert np.abs(sampled(cascade) - found).max() < 1e-5
    pipe.save_pretrained(tmp_path / "again")
    assert np.array_equal(sampled(quiet(load_pipeline(tmp_path / "again")).rekernel.cascade), found)


def test_positions_are_recorded_with_it(tmp_path):
    family = FAMILIES["sd3"]
    transformer, scheduler = family.pipe().transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    folder = tmp_path / "small"
    for part, name in ((transformer, "transformer"), (scheduler, "scheduler")):
        part.save_pretrained(folder / name)
    parts = {
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
    index = {"_class_name": "StableDiffusion3Pipeline", **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    made = record(folder, tmp_path / "out", 2.0, guidance={}, positions={"method": "interpolate"}, cascade=[0.5])
    assert made.cascade == (0.5,) and made.positions == {"method": "interpolate"}
    entry = json.loads((tmp_path / "out" / "transformer" / "config.json").read_text())["_rekernel"]
    assert Recorded.from_entry(entry, "x") == made
    pipe = family.pipe()
    pipe.transformer.register_to_config(_rekernel=entry)
    attached = [made.make_positions().attach(pipe), made.make_guidance().attach(pipe)]
    cascade = AttachedCascade(recorded_cascade(pipe, made))
    assert repr(cascade).endswith("16x16 -> 32x32 at 0.5, guided, positions rescaled)")
    assert cascade(**family.call(generator=torch.Generator().manual_seed(0)))[0].shape == (1, 3, 32, 32)
    assert all(part.attached for part in attached)


def test_guidance_comes_back_after_an_error(folder, tmp_path):
    record(folder, tmp_path / "out", 2.0, guidance={}, kernels={}, cascade=[0.5])
    pipe = quiet(load_pipeline(tmp_path / "out"))
    with pytest.raises(rk.RekernelError, match="leaves no step"):
        pipe.rekernel.cascade(num_inference_steps=1)
    assert pipe.rekernel.guidance.attached and pipe.rekernel.kernels.attached
    assert sampled(pipe).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("scale", "cascade", "said"),
    [
        (2.0, [0.5, 0.4], "2 given, but the cascade has 1 after its first stage"),
        (4.0, [0.5, 0.4, 0.3], "3 given, but the cascade has 2"),
        (2.0, [], "must be a list of strengths"),
        (2.0, [1.5], "strength=1.5 must be above 0 and at most 1"),
        ((2.0, 2.0, 2.0), [0.5], "changes the number of frames"),
    ],
)
def test_records_that_cannot_be(scale, cascade, said):
    with pytest.raises(rk.RekernelError, match=said):
        Recorded(scale, 8, {}, cascade=tuple(cascade))


@pytest.mark.parametrize("cascade", ["\x1b[2J", 0.5, ["x"], [[0.5]], {"a": 1}])
def test_entries_that_are_none_are_one_line(cascade):
    entry = Recorded(2.0, 8, {}).to_entry() | {"cascade": cascade}
    with pytest.raises(rk.RekernelError) as found:
        Recorded.from_entry(entry, "config.json")
    assert "\n" not in str(found.value) and "\x1b" not in str(found.value)


def test_one_strength_is_for_all_stages_and_older_entries_have_none():
    assert Recorded(8.0, 8, {}, cascade=(0.5,)).cascade == (0.5, 0.5, 0.5)
    assert Recorded((1.0, 4.0, 4.0), (8, 8), {}, cascade=(0.5,)).cascade == (0.5, 0.5)
    assert Recorded.from_entry(Recorded(2.0, 8, {}).to_entry(), "x").cascade is None


def test_the_card_names_it():
    found = Recorded(4.0, 8, {}, cascade=(0.5, 0.4))
    assert what_is_recorded(found) == "upsample guidance and a cascade"
    said = dict(facts_of_record(found))["cascade"]
    assert "strength 0.5, then 0.4" in said and "`pipe.rekernel.cascade(...)`" in said


def test_on_the_command_line(folder, tmp_path):
    out, picture = tmp_path / "out", tmp_path / "grid.png"
    done = runner.invoke(
        main,
        ["convert", str(folder), str(out), "--scale", "4", "--guidance", "theta=1.2,kernels=none,cascade=0.5/0.25"],
    )
    assert done.exit_code == 0 and "cascade at 0.5, 0.25" in done.stdout
    common = ["--count", "1", "--steps", "4", "--force", "--out", str(picture)]
    recorded = runner.invoke(main, ["sample", str(out), *common])
    assert "8x8 -> 16x16 at 0.5 -> 32x32 at 0.25, guided" in recorded.stdout, recorded.output
    assert "1 picture of 32x32" in recorded.stdout
    first = picture.read_bytes()
    smaller = runner.invoke(main, ["sample", str(out), "--size", "16", *common])
    assert "8x8 -> 16x16 at 0.5, guided" in smaller.stdout
    typed = ["--size", "32", "--guidance", "upsample,theta=1.2", "--cascade", "0.5", "--cascade", "0.25"]
    assert runner.invoke(main, ["sample", str(folder), *typed, *common]).exit_code == 0
    assert picture.read_bytes() == first
    alone = runner.invoke(
        main, ["sample", str(folder), "--size", "16", "--guidance", "none", "--cascade", "0.5", *common]
    )
    assert "8x8 -> 16x16 at 0.5, not guided" in alone.stdout
    without = runner.invoke(main, ["sample", str(out), "--cascade", "none", "--size", "16", *common])
    assert without.exit_code == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--size", "16", "--cascade", "half"], 2, "--cascade half: write a number such as 0.5, or none"),
        (["--size", "16", "--cascade", "2"], 1, "must be above 0 and at most 1"),
        (["--size", "16", "--cascade", "0.5", "--cascade", "0.4"], 1, "2 given, but the cascade has 1"),
        (["--cascade", "0.5"], 1, "is not above the trained size"),
        (["--size", "16", "--guidance", "upsample,cascade=0.5"], 2, "--cascade instead of"),
    ],
)
def test_slips_on_the_command_line(folder, tmp_path, options, code, said):
    done = runner.invoke(main, ["sample", str(folder), "--out", str(tmp_path / "x.png"), *options])
    assert done.exit_code == code and said in " ".join(done.output.split()), done.output


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ("cascade=x", "'cascade=x': 'x' is not a number, or several as in 0.5/0.4"),
        ("cascade=0.5,0.4", "'0.4' is a strength of its own; join strengths with /: cascade=0.5/0.4"),
    ],
)
def test_strengths_that_convert_cannot_read(folder, tmp_path, wish, said):
    bad = runner.invoke(main, ["convert", str(folder), str(tmp_path / "y"), "--scale", "4", "--guidance", wish])
    assert bad.exit_code == 2 and said in " ".join(bad.output.split())
