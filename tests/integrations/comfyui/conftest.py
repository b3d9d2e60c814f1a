"""The folder of the nodes on the path of imports, as a package called `comfyui`; ComfyUI itself, where it is given."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "integrations"))

from . import real


@pytest.fixture(scope="session")
def checkout():
    """The folder of ComfyUI."""
    return real.checkout()


@pytest.fixture(scope="module")
def sd15(checkout):
    """A small UNet, as ComfyUI's own class for Stable Diffusion 1.x."""
    return real.unet_model()


@pytest.fixture(scope="module")
def patcher(sd15):
    """ComfyUI's own patcher around that UNet."""
    return real.patcher_of(sd15)
