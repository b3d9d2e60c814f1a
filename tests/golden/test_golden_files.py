"""Files that 0.1.0 wrote are read as they were, and the networks they belong to say what they said then."""

from __future__ import annotations

import pytest

for library in ("torch", "diffusers", "transformers", "onnx", "onnxruntime"):
    pytest.importorskip(library)
import numpy as np  # noqa: E402 - after the libraries are known to be there
import torch  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.plan import changes  # noqa: E402
from rekernel.resampling import operators  # noqa: E402
from rekernel.resampling.least_squares import filter_taps  # noqa: E402

from . import files, networks  # noqa: E402
from .old_defaults import options_said  # noqa: E402

EXPECTED = files.expected()
PIPELINES = {"pipeline", "pipeline-again", "pipeline-guided"}


@pytest.fixture
def design_of_0_1_0(monkeypatch):
    """`optimal` without the limit: every old tap is designed as the single filter still is."""

    def columns(count, targets, scale, *, smoothness):
        return np.stack([filter_taps(np.arange(count) - u, scale, smoothness=smoothness) for u in targets], axis=1)

    monkeypatch.setattr(operators, "optimal_columns", columns)
    changes._small_matrix.cache_clear()
    yield
    changes._small_matrix.cache_clear()


def agrees(said, name, within=1e-5):
    expected, found = EXPECTED[name], files.sample(said)
    assert found["shape"].tolist() == expected["shape"].tolist()
    values = expected["values"]
    assert values.std() > 1e-3 * values.abs().max() > 0  # a constant would prove little
    assert float((found["values"] - values).abs().max() / values.abs().max()) < within


def test_every_answer_belongs_to_a_test():
    assert set(EXPECTED) == {*files.TRACED, *files.NAMED, *PIPELINES, "onnx"}


def test_the_plans_in_the_files_are_read_as_they_were():
    found = "\n".join(files.recipe_text(name, plan) for name, plan in files.recipes().items())
    assert found == files.RECIPES.read_text()


@pytest.mark.parametrize("name", files.TRACED)
def test_a_saved_module_says_what_it_said(name, tmp_path):
    case = files.TRACED[name]
    model = rkt.load(case.build().eval(), files.place(name))
    agrees(files.answer(model, case.new), name)
    rkt.save(model, tmp_path / "again.safetensors")
    again = rkt.load(case.build().eval(), tmp_path / "again.safetensors")
    assert torch.equal(files.answer(again, case.new), files.answer(model, case.new))


# The convolution behind a pooling now makes up for the offset of the pooling, so networks with poolings differ.
@pytest.mark.usefixtures("design_of_0_1_0")
@pytest.mark.parametrize("name", [name for name in files.TRACED if not name.startswith("pools")])
def test_rescaling_now_gives_the_module_of_then(name):
    """But for the border: 0.1.0 padded with zeros where a layer without padding needs some."""
    model = files.rescaled(name)
    for change in model.rekernel_plan.changed:
        if change.padding_mode:
            model.get_submodule(change.name.rpartition(".")[0]).padding_mode = "zeros"
    agrees(files.answer(model, files.TRACED[name].new), name)


@pytest.mark.parametrize("name", files.NAMED)
def test_a_converted_checkpoint_says_what_it_said(name):
    within = 1e-2 if name.endswith("half") else 1e-5  # what a processor makes of half precision differs
    agrees(files.answer(files.loaded_named(name), files.NAMED[name].new), name, within)


@pytest.mark.usefixtures("design_of_0_1_0")
@pytest.mark.parametrize("name", [*files.NAMED, "names-lora"])
def test_converting_now_gives_the_tensors_of_then(name, tmp_path):
    target = tmp_path / "out" / files.place(name).name
    if name == "names-lora":
        rk.convert(files.lora_of(tmp_path / f"{name}.safetensors"), target, scale=2)
    else:
        case = files.NAMED[name]
        source = files.source_of(tmp_path / f"{name}.safetensors", case.build)
        rk.convert(source, target, **options_said(source, **case.options))
    then, now = tensors(files.place(name)), tensors(target)
    assert [p.name for p in weights(target)] == [p.name for p in weights(files.place(name))]
    assert then.keys() == now.keys()
    for key, value in then.items():
        assert now[key].dtype == value.dtype
        torch.testing.assert_close(now[key], value, rtol=1e-5, atol=1e-3 if value.dtype == torch.float16 else 1e-6)


def weights(path):
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def tensors(path):
    return {n: t for file in weights(path) for n, t in files.load_file(file).items()}


def test_a_stored_plan_is_carried_out_on_a_checkpoint(tmp_path):
    plan = rk.Plan.from_json((files.FOLDER / "plan-names.json").read_text())
    source = files.source_of(tmp_path / "in.safetensors", networks.flattened)
    rk.convert(source, tmp_path / "out.safetensors", plan=plan)
    found = tensors(tmp_path / "out.safetensors")
    assert {n: tuple(t.shape) for n, t in found.items()} == {c.name: c.new_shape for c in plan.changes}


@pytest.mark.usefixtures("design_of_0_1_0")
@pytest.mark.parametrize("name", files.PLANS)
def test_a_stored_plan_is_carried_out_on_a_module(name):
    case = files.TRACED[name]
    plan = rk.Plan.from_json((files.FOLDER / f"plan-{name}.json").read_text())
    agrees(files.answer(rkt.apply_plan(networks.filled(case.build()), plan), case.new), name)


def test_an_onnx_model_says_what_it_said():
    agrees(files.onnx_answer(files.FOLDER / "model.onnx"), "onnx")
    assert rk.inspect(files.FOLDER / "model.onnx").recipe.tool == "rekernel 0.1.0"


def test_a_converted_pipeline_says_what_it_said():
    from rekernel.diffusion import load_pipeline

    agrees(files.unet_answer(load_pipeline(files.FOLDER / "pipeline").unet, 16), "pipeline")


@pytest.mark.parametrize("name", ["pipeline-again", "pipeline-guided"])
def test_a_pipeline_whose_config_has_the_entry_samples_what_it_sampled(name):
    from rekernel.diffusion import load_pipeline

    agrees(files.sampled(load_pipeline(files.FOLDER / name)), name, 1e-4)
