"""Write the lines that load a pushed model. They work as they are pasted.

Scope: configs and plans. A name out of a config becomes code only if it is a plain identifier.
"""

from __future__ import annotations

from ..conversion.transformers_config import class_name, loads_plainly, sizes_are_those
from .contents import Payload


def library_of(load: Payload) -> str:
    """The Hub's name of the library that loads it without more; rekernel where none does.

    The Hub shows that library's own lines beside the card, which must not fail.
    """
    if load.onnx:
        return "onnx"
    if not load.recipes:  # weights as they were, what is recorded beside them
        return "diffusers"
    [(component, recipe), *others] = load.recipes.items()
    plain = not component and not others and loads_plainly(load.configs[""], recipe.plan)
    return "transformers" if plain else "rekernel"


def snippet(load: Payload, repo: str) -> str:
    """Python that loads `load` from the repository `repo`."""
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
        if sizes_are_those(config, recipe.plan.changed, new=False):
            return (
                f"import rekernel.torch as rkt\nfrom transformers import {called}\n\n"
                f'config = {called}.config_class.from_pretrained("{repo}")\n'
                f'model = rkt.load_pretrained("{repo}", model={called}(config))\n'
            )
    elif called:
        return (
            f"import rekernel.torch as rkt\nfrom diffusers import {called}\n\n"
            f'config = {called}.load_config("{repo}")\n'
            f'model = rkt.load_pretrained("{repo}", model={called}.from_config(config))\n'
        )
    first = load.checkpoints[0]
    return (
        "from huggingface_hub import hf_hub_download\nfrom safetensors.torch import load_file\n\n"
        f'weights = load_file(hf_hub_download("{repo}", {_literal(first)}))\n'
        '# Into the architecture they belong to, built at its trained size:\n'
        f'# model = rekernel.torch.load_pretrained("{repo}", model=model)\n'
    )  # fmt: skip


def _session(load: Payload, repo: str) -> str:
    """An ONNX model runs as it is: sizes, strides and paddings are in its graph."""
    if len(load.checkpoints) == 1:
        fetch, path = "hf_hub_download", f'hf_hub_download("{repo}", {_literal(load.onnx)})'
    else:  # tensors in files beside it
        fetch, path = "snapshot_download", f'snapshot_download("{repo}") + {_literal("/" + load.onnx)}'
    return (
        f"import onnxruntime\nfrom huggingface_hub import {fetch}\n\n"
        f"session = onnxruntime.InferenceSession({path})\n"
        "print([(given.name, given.shape) for given in session.get_inputs()])  # what it takes, at the new size\n"
        "# answers = session.run(None, {session.get_inputs()[0].name: images})\n"
    )


def _literal(name: str) -> str:
    """A file name as Python text."""
    text = ascii(name)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\'" not in text else text
