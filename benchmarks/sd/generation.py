"""Make the pictures of one process's share, and write each down as soon as it is made.

Scope: loading pipelines, the order of work, seconds and memory, failures. Not here: which pictures (see `work_items`),
how a method draws one (see `methods`).
"""

from __future__ import annotations

import gc
import io
import itertools
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from methods import NotApplicableError, Sizes, attached, sizes_of
from peers import ADAPTERS
from PIL import Image
from study import Method, Model
from work_items import DONE, FAILED, SKIPPED, Item, Store

from rekernel.errors import RekernelError
from rekernel.escape import cause, shown

Told = Callable[[str], None]


class Generation:
    """Makes pictures with one device; a pipeline stays loaded until another model is asked for.

    Parameters
    ----------
    store : where pictures and records are written
    device : of this process
    told : gets a line for each picture, and one for a model that cannot be loaded
    prompts : of the study; a line has the number of its prompt, as the contact sheets have
    """

    def __init__(self, store: Store, device: torch.device, told: Told, prompts: Sequence[str]) -> None:
        self._store, self._device, self._told = store, device, told
        self._numbers = {prompt: number for number, prompt in enumerate(prompts, 1)}
        self._loaded: tuple[Model, Any, Sizes] | None = None
        self._kept = self._total = 0

    def run(self, items: Sequence[Item]) -> None:
        """Make the pictures, in their order. One that fails is recorded as failed, and the others are made.

        A model that cannot be loaded is tried once: all its pictures are recorded as failed.
        """
        self._kept, self._total = 0, len(items)
        for model, group in itertools.groupby(items, lambda i: i.model):
            part = list(group)
            try:
                self._pipe(model)
            except Exception as error:
                self._unload()
                reason = f"{type(error).__name__}: {cause(error, 400)}"
                self._keep_all(part, FAILED, reason, quiet=True)
                self._told(f"{self._kept}/{self._total}: {shown(model.name)} cannot be loaded, so its {len(part)} "
                           f"pictures here are left out: {reason}")  # fmt: skip
                continue
            self._run_model(part)

    def _run_model(self, items: Sequence[Item]) -> None:
        """Pictures of one model, which can be loaded."""
        for (model, area, method), group in itertools.groupby(items, lambda i: (i.model, i.area, i.method)):
            part = list(group)
            try:
                self._run_group(model, area, method, part)
            except NotApplicableError as error:
                self._keep_all(part, SKIPPED, cause(error, 400))
            except Exception as error:
                # A method that cannot be attached: the next group may be able to.
                self._keep_all(part, FAILED, f"{type(error).__name__}: {cause(error, 400)}")
                self._unload()
            if method.peer is not None and ADAPTERS[method.peer].leaves_traces:
                self._unload()

    def _run_group(self, model: Model, area: float, method: Method, items: Sequence[Item]) -> None:
        """Pictures of one model, size and method."""
        pipe, sizes = self._pipe(model)
        side = sizes.side(area)
        about = {
            "class": type(pipe).__name__, "side": side, "trained": sizes.trained, "dtype": model.dtype,
            "device": self._device_name(), "versions": versions(),
        }  # fmt: skip
        with attached(pipe, method, model, sizes, side) as (draw, said):
            for item in items:
                self._make(item, draw, {**about, "attached": said})

    def _make(self, item: Item, draw: Callable[..., Image.Image], about: dict[str, Any]) -> None:
        begin = time.perf_counter()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            picture = draw(item.prompt, torch.Generator("cpu").manual_seed(item.seed)).convert("RGB")
            if picture.size != (about["side"],) * 2:
                raise ValueError(f"a picture of {picture.size} pixels, and {about['side']} a side were asked for")
        except RekernelError as error:  # the same for every prompt: dilated kernels at a scale of 1.4
            raise NotApplicableError(str(error)) from None
        except Exception as error:  # too little memory for one size, a fault of a peer: the others can be made
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._keep(item, FAILED, {**about, "reason": f"{type(error).__name__}: {cause(error, 400)}"})
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - begin
        values = np.asarray(picture)
        record = {
            **about, "seconds": round(seconds, 3), **self._memory(),
            "one_colour": bool((values == values[0, 0]).all()),  # as half precision leaves it when it overflows
        }  # fmt: skip
        self._keep(item, DONE, record, encoded(picture))

    def _memory(self) -> dict[str, Any]:
        """The most memory so far: of this picture on a GPU, of the process on a CPU."""
        if self._device.type == "cuda":
            return {"peak_bytes": torch.cuda.max_memory_allocated(self._device), "peak_of": "GPU, this picture"}
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"peak_bytes": peak, "peak_of": "process, since it began"}

    def _keep(
        self, item: Item, state: str, record: dict[str, Any], picture: bytes | None = None, *, quiet: bool = False
    ) -> None:
        self._store.keep(item, picture, {"state": state, **record})
        self._kept += 1
        if quiet:
            return
        said = f"{record['seconds']:g} s" if state == DONE else record["reason"]
        name = f"{shown(item.model.name)}, {item.area:g}x, {shown(item.method.name)}"
        at = f"prompt {self._numbers[item.prompt]}, seed {item.seed}"
        self._told(f"{self._kept}/{self._total}: {name}, {at}: {state}, {said}")

    def _keep_all(self, items: Sequence[Item], state: str, reason: str, *, quiet: bool = False) -> None:
        for item in items:
            if (found := self._store.record(item)) is None or found["state"] != DONE:
                self._keep(item, state, {"reason": reason}, quiet=quiet)

    def _pipe(self, model: Model) -> tuple[Any, Sizes]:
        if self._loaded is None or self._loaded[0] != model:
            self._unload()
            pipe = loaded(model, self._device)
            self._loaded = (model, pipe, sizes_of(pipe, model))
        return self._loaded[1], self._loaded[2]

    def _unload(self) -> None:
        self._loaded = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else platform.machine()


def loaded(model: Model, device: torch.device) -> Any:
    """The pipeline of a model on its device, of the class that its model_index.json names, quiet.

    A safety checker is taken off: it replaces a picture by a black one, and the measures would count that one.
    """
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        model.source, revision=model.revision, variant=model.variant, dtype=getattr(torch, model.dtype),
        **dict.fromkeys(model.without),
    )  # fmt: skip
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None
    if model.vae_tiling:
        pipe.vae.enable_tiling()
    pipe.set_progress_bar_config(disable=True)
    if model.offload == "model" and device.type != "cpu":
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)


def encoded(picture: Image.Image) -> bytes:
    """A picture as a PNG without metadata."""
    held = io.BytesIO()
    picture.save(held, "PNG")
    return held.getvalue()


def versions() -> dict[str, str]:
    """The versions that a picture depends on."""
    import diffusers
    import transformers

    from rekernel.version import __version__

    named = {"torch": torch, "diffusers": diffusers, "transformers": transformers}
    return {"rekernel": __version__, **{name: str(module.__version__) for name, module in named.items()}}
