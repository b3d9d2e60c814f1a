"""What `import rekernel` brings along, who may import whom inside it, and what it exports."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rekernel as rk

SOURCE = Path(rk.__file__).parent

FOREIGN = (
    "torch", "scipy", "jax", "cupy", "click", "rich", "array_api_compat", "safetensors", "huggingface_hub",
    "diffusers", "transformers", "ml_dtypes", "onnx", "flax", "keras", "mlx", "matplotlib", "psutil",
)  # fmt: skip

# Lowest first. A module imports from its own level or below; one that does not exist yet is no error.
LEVELS: list[set[str]] = [
    {"errors", "version"},
    {"filters", "optimal"},
    {"operators"},
    {"_apply", "geometry"},
    {"resample"},
    {"hidden"},
    {"escape"},
    {"header"},
    {"dtypes", "folders", "shard"},
    {"atomic", "index_files"},
    {"candidates", "checkpoint", "config_entry", "pickles", "writer"},
    # An address of the Hub opens as a path, and is looked at through paths: they know each other, but only when called.
    {"opening", "pipeline_folder", "remote"},
    {"changes"},
    {"plan_json"},
    {"plan", "families", "selection", "journal", "layouts", "modelspec"},
    {"lora"},
    {"architecture"},
    {"settings", "transformers_config"},
    {"layer_planner", "recipe"},
    {"planner"},
    {"outputs", "targets", "digests", "download"},
    {"stream"},
    {"conversion"},
    {"onnx"},
    {"convert", "inspect"},
    {"hub", "torch", "diffusion"},
]

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


def level_of(module: str) -> int:
    for number, level in enumerate(LEVELS):
        if module in level:
            return number
    raise AssertionError(f"rekernel.{module} has no place in LEVELS (tests/test_imports.py): add it where it belongs")


def top_module(path: Path) -> str:
    """rekernel/torch/dense.py belongs to 'torch'; rekernel/plan.py is 'plan'."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules of rekernel a file imports, wherever in the file it does."""
    package = ("rekernel", *path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *(node.module or "").split("."))).strip(".")
            # `from . import plan` names the module after the import, `from .plan import Plan` before it.
            found |= {f"{name}.{alias.name}" for alias in node.names} if name == "rekernel" else {name}
    return {name.split(".")[1] for name in found if name.startswith("rekernel.")}


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def test_import_brings_numpy_alone():
    code = "import sys, rekernel; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SOURCE.parent), "PATH": ""},
    )
    loaded = set(run.stdout.split())
    assert {"rekernel", "numpy"} <= loaded
    assert loaded.isdisjoint(FOREIGN)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    own = level_of(top_module(path))
    above = sorted(name for name in imported(path) if level_of(name) > own)
    assert not above, f"{path.relative_to(SOURCE)} imports from a level above its own: {above}"


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "torch").mkdir()
    file = tmp_path / "torch" / "dense.py"
    file.write_text(
        "import numpy, rekernel.hub\nfrom ..plan import Plan\nfrom .. import writer\nfrom . import factored\n"
        "def f():\n    from rekernel.convert import convert\n    from ..header.x import y\n"
    )
    assert imported(file) == {"hub", "plan", "writer", "torch", "convert", "header"}
    assert top_module(file) == "torch"


def test_no_module_has_two_levels():
    names = [name for level in LEVELS for name in level]
    assert len(names) == len(set(names))


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
