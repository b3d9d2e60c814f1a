"""The recipe of examples/train_small, at a tenth of its size: each step does what the page says it does."""

import copy
import doctest
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import rekernel.torch as rkt  # noqa: E402
from rekernel_cli.user_code import import_file  # noqa: E402

ROOT = Path(__file__).parents[2]
GROWS = {"mode": "supersample", "method": "optimal"}  # as the script rescales
SCRIPT = ROOT / "examples" / "train_small" / "train_small.py"


@pytest.fixture(scope="module")
def recipe():
    """The script as a module; what it adds to the search path goes again."""
    path, threads = list(sys.path), torch.get_num_threads()
    torch.set_num_threads(1)
    yield import_file(SCRIPT)
    sys.path[:] = path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(recipe):
    """A network trained for 120 steps at 16x16 on 200 images; what it was trained on; images in other fonts."""
    torch.manual_seed(0)
    x, y = recipe.images(200, 1)
    model = recipe.GlyphCNN(channels=recipe.CHANNELS)
    recipe.fit(model, recipe.reduced(x, 16), y, steps=120, lr=1e-2)
    return model, (x, y), recipe.images(200, 2, fonts=recipe.TEST_FONTS)


def test_each_step_lowers_the_loss_on_fonts_never_seen(recipe, trained):
    model, (x, y), (test_x, test_y) = trained
    x, test_x = recipe.reduced(x, 32), recipe.reduced(test_x, 32)
    losses = [recipe.score(model, test_x, test_y)["loss"]]
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16), **GROWS)
    losses.append(recipe.score(larger, test_x, test_y)["loss"])
    rkt.recalibrate(larger, x.split(250))
    losses.append(recipe.score(larger, test_x, test_y)["loss"])
    recipe.fit(larger, x, y, steps=25, lr=3e-3)
    losses.append(recipe.score(larger, test_x, test_y)["loss"])
    assert losses[0] > 1.5 * losses[1]
    assert losses[1] > losses[2] > 1.2 * losses[3]


def test_fine_tuning_leaves_the_small_network_alone(recipe, trained):
    model, (x, y), _ = trained
    before = copy.deepcopy(model.state_dict())
    for form in ("dense", "factored"):
        larger = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16), form=form, **GROWS)
        recipe.fit(larger, recipe.reduced(x, 32), y, steps=1, lr=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_a_fine_tuned_network_loads_to_equal_outputs(recipe, trained, form, tmp_path):
    model, (x, y), (test_x, _) = trained
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16), form=form, **GROWS)
    recipe.fit(larger, recipe.reduced(x, 32), y, steps=3, lr=1e-2)
    rkt.save(larger, tmp_path / "larger.safetensors")
    again = rkt.load(recipe.GlyphCNN(channels=recipe.CHANNELS), tmp_path / "larger.safetensors").eval()
    test_x = recipe.reduced(test_x, 32)
    with torch.no_grad():
        assert torch.equal(again(test_x), larger(test_x))
        assert not torch.equal(again(test_x), model(test_x))


def test_scores_of_a_known_confusion(recipe):
    # Two of three images of class 0 found, one called 1; the image of class 1 found; class 2 never there.
    logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0], [0, 9.0, 0]])
    scores = recipe.score(torch.nn.Identity(), logits, torch.tensor([0, 0, 0, 1]))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)


def test_the_command_as_documented(recipe, monkeypatch, capsys, tmp_path):
    out = tmp_path / "new" / "larger.safetensors"
    arguments = ["--images", "64", "--small-steps", "5", "--steps", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    recipe.main()
    lines = capsys.readouterr().out.splitlines()
    scores = [line.partition("accuracy")[2] for line in lines]
    assert len(lines) == 6
    assert scores[-1] == scores[-2]  # as loaded, as fine-tuned
    assert out.stat().st_size > 4 * 22650


def test_every_example_on_the_page_runs():
    page = str(ROOT / "docs" / "training-small.md")
    results = doctest.testfile(page, module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 15
    assert results.failed == 0
