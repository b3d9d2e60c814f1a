"""The arms, the loop and the summary of benchmarks/real/training.py, without its pictures and weights."""

import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("rich")

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "real"))

import training_arms as arms  # noqa: E402
from fashion_data import Pictures, resized  # noqa: E402
from fashion_networks import cnn  # noqa: E402


def table():
    """benchmarks/real/training.py; benchmarks/accuracy has another module of that name in the same path."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("real_training", Path(arms.__file__).with_name("training.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small():
    """The strided CNN with statistics of batch norm that are not those of a new layer."""
    torch.manual_seed(0)
    model = cnn(14)
    for _ in range(3):
        model(torch.rand(16, 1, 14, 14))
    return model.eval()


def test_the_absorbed_arm_starts_as_the_small_network_on_reduced_pictures(small):
    x = torch.rand(4, 1, 28, 28)
    start = arms.network("absorbed, area", 0, small)
    torch.testing.assert_close(start(x), small(resized(x, 14)), rtol=1e-5, atol=1e-5)


def test_the_two_dilated_arms_start_alike_and_differ_in_what_training_can_change(small):
    x = torch.rand(4, 1, 28, 28)
    plain, dense = (arms.network(name, 0, small) for name in ("supersampled, dilated", "supersampled, dilated, dense"))
    torch.testing.assert_close(plain(x), dense(x), rtol=1e-5, atol=1e-5)
    inner = 16 * 32 + 32 * 64  # pairs of channels of the two inner layers, of 3x3 taps and of 5x5
    assert sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in plain.parameters()) == 16 * inner


def test_every_arm_trains(small):
    pictures = Pictures(torch.rand(8, 1, 28, 28), torch.arange(8))
    for name in arms.ARMS:
        model = arms.network(name, 0, small)
        before = [p.detach().clone() for p in model.parameters()]
        seen = []
        assert arms.fit(model, pictures, arms.Training(2, 4, 1e-2), marks=(1,), mark=seen.append) > 0
        assert seen == [1]
        assert not model.training
        assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)), name


def test_a_pass_meets_every_picture_once():
    batches = arms._batches(6, arms.Training(6, 2, 1.0), seed=1)
    assert [len(b) for b in batches] == [2] * 6
    passes = torch.cat(batches).split(6)
    assert all(sorted(p.tolist()) == list(range(6)) for p in passes)
    assert passes[0].tolist() != passes[1].tolist()


def test_the_whole_way_counts_training_small_once_and_takes_the_larger_peak(monkeypatch):
    training = table()
    monkeypatch.setattr(training, "rescaling_seconds", lambda arm: 0.5)
    steps = arms.FULL_STEPS
    cost = {
        arms.TRAIN_SMALL: {"batch": 256, "ms": 10.0, "peak_mb": 4.0},
        arms.TRAIN_LARGE: {"batch": 256, "ms": 40.0, "peak_mb": 16.0},
        "absorbed, area": {"batch": 128, "ms": 5.0, "peak_mb": 2.0},
        arms.NOTHING: {"batch": 128, "ms": 20.0, "peak_mb": 8.0},
    }
    run = {"seed": 0, "steps": 480, "rate": 1e-3, "weights": 7, "f1": 80.0, "seconds": 2.0}
    runs = [
        {**run, "arm": "absorbed, area", "accuracy": {0: 70.0, 480: 80.0}},
        {**run, "arm": "absorbed, area", "accuracy": {0: 72.0, 480: 81.0}, "seed": 1},
        {**run, "arm": arms.NOTHING, "accuracy": {0: 10.0, 480: 60.0}},
    ]
    references = [
        {"arm": name, "steps": steps, "rate": 1e-2, "weights": 5, "accuracy": {steps: 90.0}, "f1": 90.0}
        for name in (arms.TRAIN_SMALL, training.SHIPPED_LARGE)
    ]
    rows = {row["arm"]: row for row in training.summarised(runs, references, cost)}
    absorbed, nothing = rows["absorbed, area"], rows[arms.NOTHING]
    assert absorbed["accuracy"] == {0: 71.0, 480: 80.5}
    assert absorbed["time"] == pytest.approx((steps * 0.010 + 0.5 + 480 * 0.005) / (steps * 0.040), abs=1e-3)
    assert absorbed["memory"] == 0.25  # of training at 14: fine-tuning takes less
    assert (absorbed["picture_14"], absorbed["picture_28"]) == (1.0, 0.25)
    assert nothing["time"] == pytest.approx(480 * 0.020 / (steps * 0.040), abs=1e-3)
    assert nothing["memory"] == 0.5
    assert rows[training.SHIPPED_LARGE]["time"] == rows[training.SHIPPED_LARGE]["memory"] == 1.0
    shown = training.shown(list(rows.values()))
    assert [set(row) == set(training.COLUMNS) for row in shown] == [True] * 4


def test_the_learning_rates_are_those_that_tuning_found():
    training = table()
    found = json.loads(training.TUNED.read_text())
    for arm, rate in training.RATES.items():
        scores = {float(candidate): score for candidate, score in found[arm].items()}
        assert scores[rate] == max(scores.values()), arm
