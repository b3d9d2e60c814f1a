"""How the source is arranged: who imports whom, how many files lie together, and that code decides on fields."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rekernel as rk

SOURCE = Path(rk.__file__).parent
ROOT = SOURCE.parents[1]
CLI = ROOT / "cli" / "rekernel_cli"

FOREIGN = (
    "torch", "scipy", "jax", "cupy", "click", "rich", "array_api_compat", "safetensors", "huggingface_hub",
    "diffusers", "transformers", "ml_dtypes", "onnx", "flax", "keras", "mlx", "matplotlib", "psutil", "tqdm", "fsspec",
    "s3fs",
)  # fmt: skip

# Lowest first. A package imports from strictly lower levels, so packages of one level do not know each other.
LEVELS: list[set[str]] = [
    {"errors", "escape", "text", "version"},
    {"messages", "rounding"},
    {"checkpoint", "resampling", "patterns"},
    {"sources", "plan", "architectures"},
    {"planning"},
    {"conversion", "torch"},
    {"onnx", "diffusion"},
    {"formats"},
    {"__main__", "offline", "inspection", "hub"},
]
LEVEL = {name: number for number, level in enumerate(LEVELS) for name in level}
MOST_MODULES = 8  # directly in rekernel
MOST_FILES = 17  # in any folder
MOST_LINES = 400  # in any file

FACES = {"rekernel", "rekernel.torch", "rekernel.diffusion", "rekernel.onnx", "rekernel.hub"}
"""Packages whose `__init__` lists public names; every other one holds a docstring alone."""


def module_name(path: Path, source: Path = SOURCE) -> str:
    """`rekernel.torch.files.save_load` for its path; a package for its `__init__`."""
    parts = [source.name, *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, source: Path = SOURCE) -> set[str]:
    """What a file imports of its own package, wherever it does so: under TYPE_CHECKING and in functions too."""
    package = source.name
    here = module_name(path, source).split(".")
    here = here if path.name == "__init__.py" else here[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *((node.module or "").split("."))]).strip(".")
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name == package or name.startswith(f"{package}.")}


def graph(source: Path = SOURCE) -> dict[str, set[str]]:
    """The modules that each module imports."""
    modules = {module_name(path, source): path for path in source.rglob("*.py")}
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        edges[module] = set()
        for name in imported(path, source):
            # `from .plan import Plan` names an attribute of the module `plan`; `from . import plan` names the module.
            owner = name if name in modules and not _is_function(name, source) else name.rpartition(".")[0]
            if owner in modules and owner != module:
                edges[module].add(owner)
    return edges


@functools.cache
def own_graph() -> dict[str, set[str]]:
    """The graph of rekernel, made once for all tests."""
    return graph()


def _is_function(module: str, source: Path) -> bool:
    """Whether a package's `__init__` gives this name to something else than the module of that name."""
    package, _, name = module.rpartition(".")
    init = source.joinpath(*package.split(".")[1:]) / "__init__.py"
    if not package or not init.exists():
        return False
    return any(
        isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names)
        for node in ast.walk(ast.parse(init.read_text(encoding="utf-8")))
    )


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle, in order; empty where there is none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for other in sorted(edges[module]):
            if found := search(other, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := search(module, []))), [])


def top(module: str) -> str:
    """`torch` for rekernel.torch.files.save_load."""
    return module.split(".")[1]


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


def test_no_module_imports_itself_through_others():
    assert cycle(graph()) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_to_lower_levels(path):
    module = module_name(path)
    assert top(module) in LEVEL, f"{top(module)} has no place in LEVELS (tests/test_structure.py): add it"
    own = LEVEL[top(module)]
    others = {name for name in own_graph()[module] if top(f"{name}.") != top(module)}
    assert "rekernel" not in others, f"{module} imports the face of the library, which imports everything"
    wrong = sorted(name for name in others if LEVEL[top(name)] >= own)
    assert not wrong, f"{module} imports from its own level or above: {wrong}"


def test_every_level_is_a_package_or_module_that_exists():
    there = {top(module_name(path)) for path in MODULES}
    assert there == set(LEVEL)
    assert sum(map(len, LEVELS)) == len(LEVEL), "a name stands on two levels"


def test_internal_packages_hold_a_docstring_alone():
    for init in SOURCE.rglob("__init__.py"):
        body = ast.parse(init.read_text(encoding="utf-8")).body
        assert ast.get_docstring(ast.Module(body, [])), f"{init} does not say what the package is for"
        if module_name(init) not in FACES:
            assert len(body) == 1, f"{init} holds more than a docstring; import from the modules themselves"


def test_few_modules_lie_at_the_top_and_few_files_beside_each_other():
    assert len(list(SOURCE.glob("*.py"))) - 1 <= MOST_MODULES  # without __init__
    for base in (SOURCE, CLI, ROOT / "tests"):
        for folder in (base, *(path for path in base.rglob("*") if path.is_dir() and path.name != "__pycache__")):
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= MOST_FILES, f"{folder} holds {len(files)} files"


@pytest.mark.parametrize("base", [SOURCE, CLI, ROOT / "tests"], ids=lambda path: path.name)
def test_no_file_is_long(base):
    long = {
        str(path.relative_to(ROOT)): count
        for path in base.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long


# What a person reads: a reason, a note, a message, and options that a plan carries for the reader.
PROSE = re.compile(
    r"""(\.(reason|warnings|family)\b\s*(==|!=|in\b|\.(startswith|endswith|find|index|split)\())"""
    r"""|((==|!=|\bis|["']\s+in\b)\s*[\w.]*\.(reason|warnings)\b)"""
    r"""|((==|!=|\bnot)\s*[\w.]*\b(plan|found|earlier)\.family\b)"""
    r"""|(\bre\.\w+\([^#]*\.(reason|warnings)\b)"""
    r"""|(\b(plan|earlier|recorded)\.options\b)"""  # read at all: `described` reads them for people
    r"""|((?<!\bself)\.options(\[["']|\.get\(["']))"""
    r"""|(\bin\s+str\((\w*(error|exc)\w*|e)\)(?!\.))"""
    r"""|(\bstr\((\w*(error|exc)\w*|e)\)\.(startswith|endswith|find|index)\()""",
    re.VERBOSE,
)
READERS = {"src/rekernel/plan/serialization.py", "src/rekernel/plan/description.py"}
"""The files that read `options`: one fills the fields that plans of 0.1.0 lack, one tells people what was asked for."""

FOREIGN_MESSAGES = ('isinstance(error, RuntimeError) and "allocate" in str(error)',)
"""Messages of other libraries that have to be read: torch has no class for too little memory on a CPU."""


def without_docstrings(text: str) -> str:
    """The code alone: a docstring may show how a person reads the options of a plan."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines)


def decisions_on_prose(text: str) -> list[str]:
    """Lines of code that decide on text made for people."""
    lines = [line for line in text.splitlines() if not any(known in line for known in FOREIGN_MESSAGES)]
    return [line.strip() for line in lines if PROSE.search(line.split("#")[0])]


def test_code_decides_on_no_prose():
    found = {}
    for base in (SOURCE, CLI):
        for path in base.rglob("*.py"):
            name = str(path.relative_to(ROOT))
            if name not in READERS and (
                lines := decisions_on_prose(without_docstrings(path.read_text(encoding="utf-8")))
            ):
                found[name] = lines
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        'read = [c for c in plan.changed if c.reason.endswith("absorbs")]',
        'if "several checkpoints" in str(error):',
        "if before.reason != change.reason:",
        'return "form" in plan.options',
        'scale = plan.options.get("scale")',
        'scale = recipe.plan.options["scale"]',
        'if any("stride" in w for w in plan.warnings) or "x" in plan.warnings:',
        "scale = earlier.options.get('scale', '?')",
        "options = recipe.plan.options",
        'if plan.family == "LoRA":',
        "if any(hand) and (not plan.family or min(hand) < 0):",
        'if re.search("absorb", change.reason):',
        'if str(error).startswith("out:"):',
    ],
)
def test_the_search_for_prose_finds_what_it_should(line):
    assert decisions_on_prose(line)


def test_the_readers_of_imports_and_cycles_see_every_form(tmp_path):
    source = tmp_path / "pack"
    (source / "torch").mkdir(parents=True)
    for name in ("__init__", "hub", "plan", "writer", "torch/__init__", "torch/factored"):
        (source / f"{name}.py").write_text('"""x"""\n')
    file = source / "torch" / "dense.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport numpy, pack.hub\nfrom ..plan import Plan\nfrom . import factored\n"
        "if TYPE_CHECKING:\n    from pack import writer\ndef f():\n    from pack.torch.factored import g\n"
    )
    edges = graph(source)
    assert edges["pack.torch.dense"] >= {"pack.plan", "pack.torch.factored", "pack.writer"}
    assert cycle(edges) == []
    (source / "torch" / "factored.py").write_text("def f():\n    from .dense import h\n")
    assert set(cycle(graph(source))) == {"pack.torch.dense", "pack.torch.factored"}
