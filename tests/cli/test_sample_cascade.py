"""`rekernel sample` with and without a cascade: what a folder records, what is typed, and the sizes."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from rekernel.diffusion import record  # noqa: E402

from ..diffusion.conftest import UNCONDITIONED  # noqa: E402

ROOT = Path(__file__).parents[2]
TRANSFORMER = ROOT / "examples" / "glyph_transformer"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A pipeline of pixels trained at 8x8, whose sizes are even."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pipelines") / "small"
    diffusers.DDIMPipeline(diffusers.UNet2DModel(**UNCONDITIONED), diffusers.DDIMScheduler()).save_pretrained(path)
    return path


@pytest.fixture
def sampled(run, tmp_path):
    """The grid of one picture, and what was said."""

    def sample(folder, *options, code=0):
        out = tmp_path / "grid.png"
        done = run("sample", folder, "--steps", 4, "--count", 1, "--force", "--out", out, *options)
        assert done.exit_code == code, done.output
        return (np.asarray(Image.open(out)) if code == 0 else None), " ".join(done.output.split())

    return sample


def test_none_turns_off_the_named_part_alone(small, sampled, tmp_path):
    record(small, tmp_path / "out", 2.0, guidance={"theta": 1.9}, kernels={}, cascade=[0.5])
    plain, _ = sampled(small, "--size", 16)
    without, said = sampled(tmp_path / "out", "--cascade", "none")
    assert "SupersampledKernels(" in said and "UpsampleGuidance(scale=2, theta=1.9" in said and "Cascade" not in said
    assert np.any(without != plain)
    assert "16x16 at 0.5, guided (theta=1.9))" in sampled(tmp_path / "out", "--kernels", "none")[1]
    assert "guided (theta=1.9), kernels rescaled)" in sampled(tmp_path / "out", "--positions", "none")[1]
    assert "not guided, kernels rescaled)" in sampled(tmp_path / "out", "--guidance", "none")[1]
    everything = ("--cascade", "none", "--kernels", "none", "--guidance", "none")
    assert np.array_equal(sampled(tmp_path / "out", *everything)[0], plain)


def test_a_typed_cascade_has_the_recorded_settings(small, sampled, tmp_path):
    record(small, tmp_path / "out", 2.0, guidance={"theta": 1.9, "eta": 1.0})
    recorded, said = sampled(tmp_path / "out", "--cascade", 0.5)
    assert "DDIMPipeline, 8x8 -> 16x16 at 0.5, guided (theta=1.9, eta=1))" in said
    typed, _ = sampled(small, "--size", 16, "--cascade", 0.5, "--guidance", "upsample,theta=1.9,eta=1")
    default, said = sampled(small, "--size", 16, "--cascade", 0.5)
    assert said.startswith("GuidedCascade(DDIMPipeline, 8x8 -> 16x16 at 0.5, guided)")
    assert np.array_equal(recorded, typed) and np.any(recorded != default)


def test_a_size_is_not_rounded(small, sampled):
    said = sampled(small, "--size", 17, "--cascade", 0.5, code=1)[1]
    assert "17x17 does not fit DDIMPipeline, which takes multiples of 2; 16x16 or 18x18 do" in said
    assert "8x8 -> 16x16 at 0.5 -> 26x30 at 0.25" in sampled(small, "--size", "26x30", "--cascade", "0.5/0.25")[1]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--size", 32, "--cascade", "0.5,0.25"), 2, "repeat it for each doubling: --cascade 0.5 --cascade 0.3"),
        (("--cascade", 0.5), 1, "--cascade: the size is not above the trained size 8x8; pass a larger --size"),
        (("--cascade", 0.5, "--kernels", "dilate"), 1, "--kernels and --cascade: the size is not above"),
        (("--size", 16, "--cascade", 0.1), 1, "strength=0.1 of 4 steps leaves no step; raise the strength or --steps"),
        (("--allow-code",), 0, "1 picture of 8x8"),  # it needs none
    ],
)
def test_slips_with_a_cascade(small, sampled, options, code, said):
    assert said in sampled(small, *options, code=code)[1]


def test_code_of_a_folder_runs_where_it_is_allowed(sampled, run):
    assert "has Python code of its own" in sampled(TRANSFORMER, code=1)[1]
    assert "pass --classes 0-9" in sampled(TRANSFORMER, "--allow-code", code=1)[1]
    allowed = ("--allow-code", "--classes", "3,1", "--size", 32)
    said = sampled(TRANSFORMER, *allowed, "--guidance", "upsample,theta=1.5", "--positions", "yarn,temperature=0")[1]
    assert "RescaledPositions(scale=2, method='yarn', temperature=0; on FluxTransformer2DModel" in said
    said = sampled(TRANSFORMER, *allowed, "--cascade", 0.3, "--positions", "yarn,temperature=0")[1]
    assert "16x16 -> 32x32 at 0.3, guided, positions rescaled (method='yarn', temperature=0))" in said
    refused = run("sample", "hf://org/name", "--allow-code")
    assert refused.exit_code == 2 and "--allow-code: runs only the code of a folder" in " ".join(refused.stderr.split())


def test_the_commands_beside_the_tables_run(sampled):
    text = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("rekernel sample ")]
    assert len(commands) == 3
    for folder, *options in commands:
        out = options.index("--out")
        assert "GuidedCascade(" in sampled(ROOT / folder, *options[:out])[1]
