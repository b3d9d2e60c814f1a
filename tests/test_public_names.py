"""What `rekernel` exports, and that every public name explains itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re

import pytest

import rekernel as rk

EXPORTS = {
    "AxisGeometry",
    "AxisOperator",
    "CheckpointError",
    "ConvGeometry",
    "Estimate",
    "Hints",
    "Info",
    "LayerChange",
    "Plan",
    "Recipe",
    "RekernelError",
    "RekernelWarning",
    "Report",
    "__version__",
    "conv_geometry",
    "conv_transpose_geometry",
    "convert",
    "estimate",
    "grid_operator",
    "inspect",
    "kernel_operator",
    "kernel_taps",
    "neuron_order",
    "plan_checkpoint",
    "plan_source",
    "pool_geometry",
    "resample",
    "resample_conv",
    "resample_hidden",
    "resample_linear",
}


def test_exports_are_the_written_list():
    assert set(rk.__all__) == EXPORTS
    assert len(rk.__all__) == len(EXPORTS)
    public = {name for name, value in vars(rk).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == EXPORTS - {"__version__"}


@pytest.mark.parametrize("name", sorted(EXPORTS - {"__version__"}))
def test_every_public_name_explains_itself(name):
    thing = getattr(rk, name)
    text = inspect.getdoc(thing) or ""
    if dataclasses.is_dataclass(thing):  # a record: what each field means
        fields = {field.name for field in dataclasses.fields(thing) if not field.name.startswith("_")}
        unknown = {field for field in fields if not re.search(rf"\b{field}\b", text)}
        assert not unknown, f"{name} does not say what {sorted(unknown)} mean"
        return
    assert text
    if inspect.isfunction(thing):
        assert re.search(r"^Examples\n-+\n>>> ", text, re.MULTILINE), f"{name} has no Examples section"
        head = text[: text.index("Examples\n---")]
        unknown = {name for name in inspect.signature(thing).parameters if not re.search(rf"\b{name}\b", head)}
        assert not unknown, f"{name} does not say what {sorted(unknown)} mean"


@pytest.mark.parametrize(
    "package", ["rekernel", "rekernel.torch", "rekernel.diffusion", "rekernel.onnx", "rekernel.hub"]
)
def test_dir_shows_the_public_names_alone(package):
    for library in {"rekernel.torch": ["torch"], "rekernel.diffusion": ["torch"], "rekernel.onnx": ["onnx"]}.get(
        package, []
    ):
        pytest.importorskip(library)
    face = importlib.import_module(package)
    assert dir(face) == sorted(face.__all__)
    assert all(hasattr(face, name) for name in dir(face))
