"""Positions recorded in a pipeline's folder, attached again by `load_pipeline`, and named on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from click.testing import CliRunner  # noqa: E402

import rekernel as rk  # noqa: E402
from rekernel.diffusion import Recorded, load_pipeline, record  # noqa: E402
from rekernel.hub.sampling_facts import facts_of_record, what_is_recorded  # noqa: E402
from rekernel_cli.guidance_options import positions  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

from ..cascade.families import FAMILIES as CASCADES  # noqa: E402
from .families import FAMILIES, FLOW  # noqa: E402

GLYPHS = Path(__file__).parents[3] / "examples" / "glyph_transformer"
NONE = {"vae": None, "text_encoder": None, "tokenizer": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lumina") / "in"
    diffusers.Lumina2Pipeline(**NONE, transformer=FAMILIES["lumina 2"].made(), scheduler=FLOW).save_pretrained(path)
    return path


def invoked(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_what_is_recorded_is_attached(folder, tmp_path):
    made = record(folder, tmp_path / "out", 2.0, guidance={}, positions={"method": "yarn", "temperature": 0.5})
    assert made.new_size == 32
    pipe = load_pipeline(tmp_path / "out", **NONE)
    attached = pipe.rekernel.positions
    assert (attached.method, attached.temperature, attached.scale) == ("yarn", 0.5, 2.0)
    assert "on Lumina2Transformer2DModel of Lumina2Pipeline" in repr(attached) and pipe.rekernel.kernels is None
    family, plain = FAMILIES["lumina 2"], FAMILIES["lumina 2"].made()
    assert not torch.allclose(family.run(pipe.transformer, 2), family.run(plain, 2), atol=1e-4)
    pipe.rekernel.remove()
    assert torch.allclose(family.run(pipe.transformer, 2), family.run(plain, 2), atol=1e-5)


def test_the_entry_goes_round_and_is_in_the_card():
    made = Recorded(2.0, 64, {"theta": 1.0}, positions={"method": "ntk", "temperature": 0.0})
    again = Recorded.from_entry(json.loads(json.dumps(made.to_entry())), "here")
    assert again == made and [type(part).__name__ for part in again.parts()] == [
        "RescaledPositions",
        "UpsampleGuidance",
    ]
    assert what_is_recorded(made) == "upsample guidance and rescaled positions"
    assert facts_of_record(made)[-1] == ("rescaled positions", "method=ntk, temperature=0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "linear"}, "method='linear' is not one of interpolate, ntk, yarn, dype"),
        ({"temperature": -1.0}, "temperature=-1.0 must be True, False"),
        ({"theta": 1.0}, "positions: no option theta; there are method, temperature"),
    ],
)
def test_wrong_options_are_refused(folder, tmp_path, options, said):
    with pytest.raises(rk.RekernelError, match=said):
        record(folder, tmp_path / "out", 2.0, positions=options)
    assert not (tmp_path / "out").exists()


def test_the_command_line_records_positions(folder, tmp_path):
    wish = "theta=1,positions=yarn,temperature=0.5"
    done = invoked("convert", folder, tmp_path / "out", "--scale", "2", "--guidance", wish)
    assert done.exit_code == 0, done.output
    assert "RescaledPositions(scale=2, method='yarn', temperature=0.5; not attached)" in done.output
    entry = json.loads((tmp_path / "out" / "transformer" / "config.json").read_text())["_rekernel"]
    assert entry["positions"] == {"method": "yarn", "temperature": 0.5} and "kernels" not in entry


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--guidance", "temperature=0.5"), "also give positions=METHOD"),
        (("--guidance", "positions=linear"), "positions 'linear': unknown; choose from interpolate, ntk, yarn, dype"),
        (("--guidance", "positions=yarn", "--method", "optimal"), "use UpsampleGuidance or a GuidedCascade instead"),
    ],
)
def test_a_command_line_that_cannot_be_recorded(folder, tmp_path, arguments, said):
    done = invoked("convert", folder, tmp_path / "out", "--scale", "2", *arguments)
    assert done.exit_code in (1, 2) and said in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_positions_typed_for_sample(folder):
    assert positions("yarn,temperature=0.5") == {"method": "yarn", "temperature": 0.5}
    assert positions("interpolate") == {"method": "interpolate"} and positions("none") is None is positions(None)
    for options, said in (
        (("--positions", "yarn,theta=1"), "write --positions METHOD"),
        (("--guidance", "upsample,positions=yarn"), "use --positions instead"),
        (("--guidance", "upsample,temperature=1"), "use --positions METHOD,temperature=X instead"),
    ):
        done = invoked("sample", folder, *options)
        assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output


def test_a_network_without_a_sample_size_has_that_of_its_pipeline(tmp_path):
    family = CASCADES["flux"]
    family.pipe().save_pretrained(tmp_path / "flux")
    made = record(tmp_path / "flux", tmp_path / "out", 2.0, guidance={}, positions={"method": "yarn"}, cascade=[0.5])
    assert (made.sample_size, made.new_size) == (128, 256)
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    for folder in ("out", "again"):
        pipe = load_pipeline(tmp_path / folder, **parts)
        assert pipe.default_sample_size == 256 and pipe.rekernel.cascade.sizes == ((256, 256), (512, 512))
        pipe.save_pretrained(tmp_path / "again")


def test_a_pipeline_of_pixels_on_tokens_has_its_own_size(tmp_path):
    made = record(GLYPHS, tmp_path / "out", 2.0, guidance={}, positions={"method": "yarn"})
    assert (made.sample_size, made.new_size) == (16, 32)
    pipe = load_pipeline(tmp_path / "out", trust_remote_code=True)
    assert pipe.config.sample_size == 32


@pytest.mark.parametrize("name", ["z-image", "wan"])
def test_a_size_that_nothing_says_is_passed_by_the_caller(name, tmp_path):
    CASCADES[name].pipe().save_pretrained(tmp_path / "plain")
    made = record(tmp_path / "plain", tmp_path / "out", 2.0, guidance={"theta": 1.2}, positions={"method": "ntk"})
    assert made.new_size is None
    assert Recorded.from_entry(made.to_entry(), "here") == made
    assert facts_of_record(made)[0] == ("sampled at", "2 times the trained size")
    with pytest.warns(UserWarning, match="its default size stays.*pass height= and width="):
        pipe = load_pipeline(tmp_path / "out", text_encoder=None, tokenizer=None)
    assert (pipe.rekernel.guidance.theta, pipe.rekernel.positions.method) == (1.2, "ntk")
    with pytest.raises(rk.RekernelError, match="the trained size is not known; without it a cascade has no size"):
        record(tmp_path / "plain", tmp_path / "more", 2.0, guidance={}, cascade=[0.5])
