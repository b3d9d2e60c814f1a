"""The example pipelines, as stock diffusers loads them."""

import pytest
from diffusers import DiffusionPipeline


@pytest.fixture(scope="module")
def pipe(request):
    """The pipeline in the folder that the test module names `FOLDER`, quiet."""
    loaded = DiffusionPipeline.from_pretrained(request.module.FOLDER, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded
