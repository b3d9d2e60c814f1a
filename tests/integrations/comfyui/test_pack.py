"""The folder as ComfyUI and its registry take it: description, requirements, example workflows, the published pack."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from comfyui.find_library import find_library

ROOT = Path(__file__).resolve().parents[3]
PACK = ROOT / "integrations" / "comfyui"
FLOWS = sorted((PACK / "example_workflows").glob("*.json"))
OURS, LIBRARY = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (PACK, ROOT))


def tool():
    spec = importlib.util.spec_from_file_location("comfyui_pack", ROOT / "tools" / "comfyui_pack.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_a_node_describes_itself_and_each_of_its_inputs(name):
    node = NODE_CLASS_MAPPINGS[name]
    declared = node.INPUT_TYPES()["required"]
    code = getattr(node, node.FUNCTION).__code__
    assert list(declared) == list(code.co_varnames[1 : code.co_argcount])
    assert len(node.DESCRIPTION) > 80 and len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES)
    for _, options in declared.values():
        assert options["tooltip"].endswith(".")
    assert {"scale", "start_percent", "end_percent", "trained_size"} <= declared.keys()
    assert NODE_DISPLAY_NAME_MAPPINGS[name].endswith("(rekernel)")


def test_the_papers_names_are_in_the_tooltips():
    declared = NODE_CLASS_MAPPINGS["RekernelUpsampleGuidance"].INPUT_TYPES()["required"]
    tooltips = {name: options["tooltip"] for name, (_, options) in declared.items()}
    assert "0 off, 1 take the coarse layout fully from the trained-size pass" in tooltips["strength"]
    assert "Share of the model's time, from noise to image" in tooltips["end_percent"]
    assert "theta" in tooltips["strength"] and "eta" in tooltips["end_percent"]
    # A workflow saved with 0.1.0 has four values, without names: scale, theta, eta, levels.
    assert list(declared)[1:5] == ["scale", "strength", "end_percent", "levels"]


def test_the_description_is_the_registry_s_and_the_library_s():
    """The rules are those of docs.comfy.org/registry/specifications."""
    project, comfy = OURS["project"], OURS["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9]|[-_.](?=[A-Za-z0-9])){0,98}", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and project["version"] == LIBRARY["project"]["version"]
    assert project["license"] == {"text": LIBRARY["project"]["license"]}
    assert project["requires-python"] == LIBRARY["project"]["requires-python"]
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"].startswith(">=")


def test_the_requirements_are_those_of_the_library_and_on_the_index():
    lines = [line for line in (PACK / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    wanted = [line for line in LIBRARY["project"]["dependencies"] if not re.match(r"(click|rich)\b", line)]
    assert lines == wanted == OURS["project"]["dependencies"]
    assert not any(line.startswith(("rekernel", "torch")) for line in lines)


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_an_example_workflow_is_wired_as_its_nodes_say(path):
    flow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in flow["nodes"]}
    assert len({number for number, *_ in flow["links"]}) == len(flow["links"]) == flow["last_link_id"]
    for number, source, out, target, into, kind in flow["links"]:
        output, given = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        assert number in output["links"] and given["link"] == number and output["type"] == given["type"] == kind
    assert all(given["link"] is not None for node in nodes.values() for given in node["inputs"])
    ours = [node for node in nodes.values() if node["type"] in NODE_CLASS_MAPPINGS]
    assert ours
    for node in ours:
        kind = NODE_CLASS_MAPPINGS[node["type"]]
        declared = kind.INPUT_TYPES()["required"]
        sockets = {name for name, (of, *_) in declared.items() if of in ("MODEL", "LATENT")}
        assert {given["name"] for given in node["inputs"]} == sockets
        assert [out["type"] for out in node["outputs"]] == list(kind.RETURN_TYPES)
        widgets = dict(zip([name for name in declared if name not in sockets], node["widgets_values"], strict=True))
        for name, value in widgets.items():
            of, options = declared[name]
            assert value in of if isinstance(of, list) else options["min"] <= value <= options["max"]


def test_each_node_has_an_example_workflow():
    used = {node["type"] for path in FLOWS for node in json.loads(path.read_text())["nodes"]}
    assert set(NODE_CLASS_MAPPINGS) <= used
    assert [path.stem for path in FLOWS] == ["guided_cascade", "rescaled_kernels", "upsample_guidance"]


def test_the_published_pack_needs_nothing_else(tmp_path):
    """It runs with its own copy of the library, and without the packages that only the command line needs."""
    pack = tool().write(tmp_path / "rekernel")
    assert (pack / "LICENSE").is_file() and not list(pack.rglob("__pycache__"))
    code = (
        "import sys, importlib.util as u\n"
        "sys.modules.update(dict.fromkeys(['click', 'rich', 'diffusers', 'transformers', 'array_api_strict']))\n"
        f"spec = u.spec_from_file_location('pack', {str(pack / '__init__.py')!r})\n"
        "pack = u.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)\n"
        "import rekernel; print(rekernel.__file__, len(pack.NODE_CLASS_MAPPINGS))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(pack / "vendor" / "rekernel" / "__init__.py"), "3"]


def test_the_library_is_found_in_the_checkout_and_else_named(tmp_path, monkeypatch):
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "rekernel").symlink_to(PACK)
    linked = (tmp_path / "custom_nodes" / "rekernel").resolve()
    assert find_library(linked) == ROOT / "src"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install /path/to/checkout"):
        find_library(tmp_path / "custom_nodes" / "copied")
