"""Small files that rekernel 0.1.0 wrote, and what the networks in them said then.

python -m tests.golden.files --write      with the code of 0.1.0 alone: make the files anew
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rekernel as rk
import rekernel.torch as rkt

from .networks import (
    Mirrored,
    Pools,
    Small,
    autoencoder,
    cnn,
    filled,
    flattened,
    mixed,
    mlp,
    normed,
    signal,
    swin,
    unet,
    vit,
    volume,
    waves,
)
from .old_defaults import rescale
from .plan_text import plan_lines
from .trace_cases import GROWS, ROOT, Tied, Tokens, loaded

FOLDER = Path(__file__).parent / "files-0.1.0"
EXPECTED, RECIPES = FOLDER / "expected.safetensors", FOLDER / "recipes.txt"


class Traced(NamedTuple):
    """A network that is rescaled by tracing.

    build : of the trained size
    size : of its input
    new : of the input of the rescaled one
    scale, options : for `rescale`
    """

    build: Callable[[], nn.Module]
    size: tuple[int, ...]
    new: tuple[int, ...]
    scale: Any = 2
    options: dict[str, Any] = {}  # noqa: RUF012 - read only


IMAGE, LARGE = (1, 3, 16, 16), (1, 3, 32, 32)
TRACED = {
    "cnn-dense": Traced(cnn, IMAGE, LARGE),
    "cnn-factored": Traced(cnn, IMAGE, LARGE, 2, {"form": "factored"}),
    "cnn-cubic-ratio": Traced(
        cnn, IMAGE, (1, 3, 32, 24), (2, 1.5), {"method": "cubic", "gain": "ratio", "exclude": ["3.weight"]}
    ),
    "cnn-dilated": Traced(cnn, IMAGE, (1, 3, 48, 48), 3, {"method": "dilate"}),
    "pools-dense": Traced(Pools, (1, 3, 32, 32), (1, 3, 64, 64)),
    "pools-factored": Traced(Pools, (1, 3, 32, 32), (1, 3, 64, 64), 2, {"form": "factored"}),
    "mirrored-dense": Traced(Mirrored, IMAGE, LARGE),
    "mirrored-factored": Traced(Mirrored, IMAGE, LARGE, 2, {"form": "factored"}),
    "auto": Traced(mixed, IMAGE, LARGE, 2, {"form": "auto"}),
    "flatten": Traced(flattened, (1, 3, 8, 8), (1, 3, 16, 16)),
    "mlp": Traced(mlp, (1, 3, 6, 6), (1, 3, 12, 12)),
    "tokens-growing": Traced(lambda: Tokens((4, 4), 1), IMAGE, LARGE, 2, {"modes": {"patch": "supersample"}}),
    "vit-growing": Traced(vit, IMAGE, LARGE, 2, {"modes": GROWS}),
    "swin-growing": Traced(swin, IMAGE, LARGE, 2, {"modes": GROWS}),
    "generator-unflatten": Traced(lambda: Small("unflatten"), (1, 4), (1, 4)),
    "generator-view": Traced(lambda: Small("view"), (1, 4), (1, 4)),
    "autoencoder": Traced(autoencoder, IMAGE, LARGE),
    "tied": Traced(Tied, IMAGE, LARGE),
    "weight-norm": Traced(normed, IMAGE, LARGE),
    "volume": Traced(volume, (1, 1, 4, 8, 8), (1, 1, 4, 16, 24), (1, 2, 3)),
    "signal": Traced(signal, (1, 2, 32), (1, 2, 64)),
}  # fmt: skip


class Named(NamedTuple):
    """A network that is converted by the names of its tensors; fields as for `Traced`, options for `convert`."""

    build: Callable[[], nn.Module]
    new: tuple[int, ...]
    options: dict[str, Any]


NAMED = {
    "names-cnn": Named(cnn, LARGE, {"scale": 2}),
    "names-cnn-half": Named(cnn, LARGE, {"scale": 2, "method": "cubic", "dtype": "F16"}),
    "names-flatten": Named(
        flattened,
        (1, 3, 16, 16),
        {"scale": 2, "hints": rk.Hints(linear_grid={"4": (4, 4, 4)}), "exclude": ["0.weight"]},
    ),
    "names-vit": Named(vit, LARGE, {"scale": 2}),
    "names-shards": Named(cnn, LARGE, {"scale": 2, "max_shard_size": 1800}),
}
PLANS = ("pools-factored", "tokens-growing")
"""Traced networks whose plans are stored as JSON, too."""


# --- what they say ---------------------------------------------------------------------------------------------


def answer(model: Any, size: tuple[int, ...]) -> torch.Tensor:
    """What a model says of waves."""
    with torch.no_grad():
        out = model(waves(*size, step=0.13).to(next(model.parameters()).dtype))
    return getattr(out, "last_hidden_state", out).float().contiguous()


def place(name: str) -> Path:
    """Where a file is, or a folder."""
    return FOLDER / name if name == "names-shards" else FOLDER / f"{name}.safetensors"


def loaded_named(name: str) -> nn.Module:
    """A converted network of the names' list, loaded by the code of now; in the dtype of its file."""
    case = NAMED[name]
    model = case.build()
    if case.options.get("dtype") == "F16":
        model = model.half()
    return rkt.load(model.eval(), place(name))


def onnx_answer(path: Path) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": waves(1, 3, 16, 16, step=0.13).numpy()})[0])


def unet_answer(model: Any, side: int) -> torch.Tensor:
    with torch.no_grad():
        return model(waves(1, 1, side, side, step=0.13), torch.tensor([10.0])).sample.contiguous()


def sampled(pipe: Any) -> torch.Tensor:
    """Two steps of a pipeline, from waves."""
    side: Any = pipe.unet.config.sample_size
    x = 2 * waves(1, 1, side, side, step=0.41)
    pipe.scheduler.set_timesteps(2)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            x = pipe.scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
    return x.contiguous()


def sample(out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Some values of an answer, and its shape. The step is odd, so that no row or column is left out."""
    step = max(1, out.numel() // 80) | 1
    return {"values": out.flatten()[::step].clone(), "shape": torch.tensor(out.shape)}


def expected() -> dict[str, dict[str, torch.Tensor]]:
    """What each network said, as `sample` gives it."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(EXPECTED).items():
        name, _, what = key.partition("/")
        found.setdefault(name, {})[what] = value
    return found


def recipe_text(name: str, plan: Any) -> str:
    return "\n".join([f"== {name}", *plan_lines(plan, kept=False), ""])


def recipes() -> dict[str, Any]:
    """The plans in the files, by name, as the code of now reads them."""
    found = {name: rk.inspect(place(name)).recipe for name in (*TRACED, *NAMED, "names-lora")}
    found["onnx"] = rk.inspect(FOLDER / "model.onnx").recipe
    found["pipeline"] = rk.inspect(FOLDER / "pipeline").components["unet"].recipe
    plans = {name: recipe.plan if recipe else None for name, recipe in found.items()}
    for path in sorted(FOLDER.glob("plan-*.json")):
        plans[path.stem] = rk.Plan.from_json(path.read_text())
    return plans


# --- making them -----------------------------------------------------------------------------------------------


def rescaled(name: str) -> nn.Module:
    """A network of the traces' list, rescaled by the code of now."""
    case = TRACED[name]
    return rescale(filled(case.build()), case.scale, torch.zeros(case.size), **case.options)


def source_of(path: Path, build: Callable[[], nn.Module]) -> Path:
    """A checkpoint of a network before its conversion."""
    save_file({n: t.contiguous() for n, t in filled(build()).state_dict().items()}, path, {"format": "pt"})
    return path


def lora_of(path: Path) -> Path:
    """An adapter of a UNet's middle and of a downsampler."""
    shapes = {
        "mid_block_resnets_0_conv1.lora_down": (2, 4, 3, 3), "mid_block_resnets_0_conv1.lora_up": (4, 2, 1, 1),
        "down_blocks_0_downsamplers_0_conv.lora_down": (2, 4, 3, 3),
        "down_blocks_0_downsamplers_0_conv.lora_up": (4, 2, 1, 1),
    }  # fmt: skip
    save_file({f"lora_unet_{name}.weight": waves(*shape) for name, shape in shapes.items()}, path)
    return path


def write() -> None:
    """Make everything anew; for the code of 0.1.0 alone."""
    if rk.__version__ != "0.1.0":
        raise SystemExit(f"this is rekernel {rk.__version__}, and the files are those of 0.1.0")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    said: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, case in TRACED.items():
            model = rescaled(name)
            rkt.save(model, place(name))
            said[name] = answer(model, case.new)
        for name, named in NAMED.items():
            rk.convert(source_of(folder / f"{name}.safetensors", named.build), place(name), **named.options)
            said[name] = answer(loaded_named(name), named.new)
        rk.convert(lora_of(folder / "lora.safetensors"), place("names-lora"), scale=2)
        theirs = loaded(ROOT / "tests" / "onnx" / "models.py")
        source = theirs.saved(folder / "model.onnx", theirs.model(channels=2))
        rk.convert(source, FOLDER / "model.onnx", scale=2)
        said["onnx"] = onnx_answer(FOLDER / "model.onnx")
        said |= write_pipelines(folder)
        write_plans(folder)
    save_file({f"{name}/{what}": v for name, out in said.items() for what, v in sample(out).items()}, EXPECTED)
    RECIPES.write_text("\n".join(recipe_text(name, plan) for name, plan in recipes().items()))


def write_pipelines(folder: Path) -> dict[str, torch.Tensor]:
    """A converted pipeline, the same saved again by diffusers, and one that records guidance."""
    from diffusers import DDIMPipeline, DDIMScheduler

    from rekernel.diffusion import load_pipeline, record

    DDIMPipeline(filled(unet()), DDIMScheduler()).save_pretrained(folder / "pipeline")
    include = ["*samplers*", "mid_block.resnets.0*"]
    rk.convert(folder / "pipeline", FOLDER / "pipeline", scale=2, include=include)
    pipe = load_pipeline(FOLDER / "pipeline")
    pipe.save_pretrained(FOLDER / "pipeline-again")
    options: dict[str, Any] = {"guidance": {"theta": 1.0, "eta": 0.6}, "kernels": {"layers": "inner", "until": 0.7}}
    record(folder / "pipeline", FOLDER / "pipeline-guided", 2.0, **options)
    said = {"pipeline": unet_answer(pipe.unet, 16)}
    return said | {name: sampled(load_pipeline(FOLDER / name)) for name in ("pipeline-again", "pipeline-guided")}


def write_plans(folder: Path) -> None:
    """Plans as JSON, with the tensors that stay."""
    names = rk.plan_checkpoint(source_of(folder / "plan.safetensors", flattened), 2, method="lanczos3", taps="full")
    (FOLDER / "plan-names.json").write_text(names.to_json() + "\n")
    for name in PLANS:
        plan: Any = rescaled(name).rekernel_plan
        (FOLDER / f"plan-{name}.json").write_text(plan.to_json(indent=None) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    write()
    sys.stdout.write(f"rekernel of {Path(rk.__file__).parent} wrote {FOLDER}\n")


if __name__ == "__main__":
    main()
