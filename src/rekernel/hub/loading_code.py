"""Write the lines of Python that load a pushed model. The lines run unchanged.

Scope: configs and plans. A name from a config becomes code only if it is a plain identifier. Not here: the card (see
`hub.card`).
"""

from __future__ import annotations

from ..conversion.transformers_config import loads_plainly, sizes_are_those
from ..plan.config_entry import CONFIG, class_name, plan_in
from .contents import Payload


def library_of(load: Payload) -> str:
    """Return the Hub's name of the library that loads the model alone; 'rekernel' if there is no such library.

    Beside the card the Hub shows lines of code for that library, which must not fail.
    """
    if load.onnx:
        return "onnx"
    if not load.recipes:  # unchanged weights with recorded guidance
        return "diffusers"
    [(component, recipe), *others] = load.recipes.items()
    plain = not component and not others and loads_plainly(load.configs[""], recipe.plan)
    return "transformers" if plain else "rekernel"


def snippet(load: Payload, repo: str) -> str:
    """Return Python code that loads the model from the repository `repo`."""
    if load.pipeline:
        code = ", trust_remote_code=True)  # runs the Python in the repository" if load.brings_code else ")"
        return f'from rekernel.diffusion import load_pipeline\n\npipe = load_pipeline("{repo}"{code}\n'
    if load.onnx:
        return _session(load, repo)
    [(_, recipe)] = load.recipes.items()
    config = load.configs[""]
    called = class_name(config)
    if called and "architectures" in config:
        if loads_plainly(config, recipe.plan):
            return f'from transformers import {called}\n\nmodel = {called}.from_pretrained("{repo}")\n'
        if plan_in(config, CONFIG) or sizes_are_those(config, recipe.plan.changed, new=False):
            return _built_from_config(called, repo)
    elif called:
        return _built_from_config(called, repo)
    first = load.checkpoints[0]
    return (
        "from huggingface_hub import hf_hub_download\nfrom safetensors.torch import load_file\n\n"
        f'weights = load_file(hf_hub_download("{repo}", {_literal(first)}))\n'
        '# Into the architecture they belong to, built at its trained size:\n'
        f'# model = rekernel.torch.load_pretrained("{repo}", model=model)\n'
    )  # fmt: skip


def _built_from_config(called: str, repo: str) -> str:
    """Return code for a model that rekernel builds from its config, at its trained size."""
    return f'import rekernel.torch as rkt\n\nmodel = rkt.load_pretrained("{repo}")  # a {called}\n'


def _session(load: Payload, repo: str) -> str:
    """Return code that runs an ONNX model, whose graph holds sizes, strides and paddings."""
    if len(load.checkpoints) == 1:
        fetch, path = "hf_hub_download", f'hf_hub_download("{repo}", {_literal(load.onnx)})'
    else:  # the tensors are in other files
        fetch, path = "snapshot_download", f'snapshot_download("{repo}") + {_literal("/" + load.onnx)}'
    return (
        f"import onnxruntime\nfrom huggingface_hub import {fetch}\n\n"
        f"session = onnxruntime.InferenceSession({path})\n"
        "print([(given.name, given.shape) for given in session.get_inputs()])  # what it takes, at the new size\n"
        "# answers = session.run(None, {session.get_inputs()[0].name: images})\n"
    )


def _literal(name: str) -> str:
    """Return a file name as a Python string literal."""
    text = ascii(name)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\'" not in text else text
