"""The lists of pins: complete, without an address, and what is installed; the lowest ones are pyproject's bounds."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = [
    line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.count("::") == 2 and "Python :: 3." in line
]
FILES = ("constraints.txt", "constraints-lowest.txt")


def pins(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned(file: str, python: str | None = None) -> dict[str, Version]:
    """What the file pins for a Python, this one by default, on this system."""
    where = default_environment() | ({"python_version": python, "python_full_version": f"{python}.9"} if python else {})
    chosen = [r for r in pins(file) if r.marker is None or r.marker.evaluate(where)]
    found = {canonicalize_name(r.name): Version(next(iter(r.specifier)).version) for r in chosen}
    assert len(found) == len(chosen), "two pins of one package for one Python"
    return found


def asked(*extras: str) -> list[Requirement]:
    """What pyproject.toml names itself."""
    own = [Requirement(line) for extra in extras for line in EXTRAS[extra]] + list(
        map(Requirement, PROJECT["dependencies"])
    )
    return [r for r in own if r.name != "rekernel" and (r.marker is None or r.marker.evaluate())]


@pytest.mark.parametrize("file", FILES)
def test_a_pin_is_a_name_and_a_version_and_no_address(file):
    assert "//" not in (ROOT / file).read_text()
    for pin in pins(file):
        assert [s.operator for s in pin.specifier] == ["=="] and not pin.url and not pin.extras, pin
    assert str(pins(file)[0]) == str(pins(FILES[0])[0]) and pins(file)[0].name == "torch"


@pytest.mark.parametrize("python", PYTHONS)
def test_whatever_is_asked_for_is_pinned_within_its_bounds_for_every_python(python):
    versions = pinned("constraints.txt", python)
    for requirement in asked(*EXTRAS):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_whatever_is_installed_for_rekernel_is_pinned_to_its_version():
    versions, seen, left = pinned("constraints.txt"), set(), [("rekernel", "dev")]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            assert name not in versions, f"{name} is pinned and not installed: run make setup"
            continue  # what only builds of torch for CUDA need
        if name != "rekernel":
            version = Version(installed.version)
            assert versions.get(name) == Version(version.public), f"{name} {version} is not what is pinned"
        for requirement in map(Requirement, installed.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    assert len(seen) > 100


def test_the_lowest_pins_are_the_bounds_of_pyproject():
    lowest = pinned("constraints-lowest.txt", "3.11")
    assert lowest.pop("click") >= Version("8.2.1")  # the least huggingface_hub asks for a newer one than we do
    for requirement in asked("onnx", "hub", "test"):
        if requirement.name == "click":
            continue
        [bound] = [s.version for s in requirement.specifier if s.operator == ">="]
        assert lowest[canonicalize_name(requirement.name)] == Version(bound), requirement
