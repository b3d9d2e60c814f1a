"""What users of Python get for about a hundred slips: one of our errors, short, with what to pass instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import rekernel as rk

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402 - after torch is known to be there

import rekernel.diffusion as rkd  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

W = np.ones((8, 4, 3, 3), np.float32)
M = np.ones((4, 4), np.float32)
X = torch.zeros(1, 3, 16, 16)
CONV, FC = nn.Conv2d(3, 8, 3), nn.Linear(4, 4)
NET = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
LARGER = rkt.rescale(NET, 2, X)
STATE = NET.state_dict()

Slip = tuple[Callable[[str], Any], str]

# The call, which is given the path of a small checkpoint, and what its message must name.
ARRAYS: dict[str, Slip] = {
    "a module for a weight": (lambda _: rk.resample_conv(CONV, 2), r"Conv2d.*layer\.weight.*rekernel\.torch\.rescale"),
    "a network for a weight": (lambda _: rk.resample_conv(NET, 2), r"Sequential.*rekernel\.torch\.rescale"),
    "a list": (lambda _: rk.resample_conv([[1.0, 2.0]], 2), r"list, not an array; pass numpy\.asarray\(w\)"),
    "None": (lambda _: rk.resample_conv(None, 2), "None, not an array; pass one of NumPy"),
    "a path": (lambda path: rk.resample_conv(path, 2), "read the tensor from the file first"),
    "a state dict": (lambda _: rk.resample_conv(STATE, 2), "pass one of its tensors"),
    "two axes": (lambda _: rk.resample_conv(M, 2), "3 to 5 axes, not 2"),
    "six axes": (lambda _: rk.resample_conv(np.ones((1,) * 6), 2), "3 to 5 axes, not 6"),
    "a scale as text": (lambda _: rk.resample_conv(W, "2"), "scale='2' must be a finite number"),
    "no scale": (lambda _: rk.resample_conv(W, None), "scale=None must be a finite number"),
    "a scale of 0": (lambda _: rk.resample_conv(W, 0), "above 0"),
    "three scales": (lambda _: rk.resample_conv(W, (2, 2, 2)), "3 entries for 2 spatial axes; give one or 2"),
    "a size as a scale": (lambda _: rk.resample_conv(W, 512), "scale=512 is new pixels per old .* scale=512 / 224"),
    "a misspelt method": (lambda _: rk.resample_conv(W, 2, "cubik"), "not one of optimal"),
    "no method": (lambda _: rk.resample_conv(W, 2, None), "not the name of a method"),
    "misspelt taps": (lambda _: rk.resample_conv(W, 2, taps="all"), "full, same-extent"),
    "a gain in capitals": (lambda _: rk.resample_conv(W, 2, gain="DC"), "not one of dc"),
    "a layout of images": (lambda _: rk.resample_conv(W, 2, layout="NCHW"), "'OIHW' or 'HWIO'"),
    "a layout that is a number": (lambda _: rk.resample_conv(W, 2, layout=4), "'OIHW' or 'HWIO'"),
    "whole numbers": (lambda _: rk.resample_conv(W.astype(np.int32), 2), "allow_cast=True"),
    "a phase as text": (lambda _: rk.resample_conv(W, 2, phase="0"), "phase='0' must be a finite number"),
    "a as text": (lambda _: rk.resample_conv(W, 2, "cubic", a="x"), "a='x' is not a finite number.*a=-0.5"),
    "a smoothness as text": (lambda _: rk.resample_conv(W, 2, smoothness="x"), "smoothness='x' is not a finite"),
    "a layer for a matrix": (lambda _: rk.resample_linear(FC, (1, 2, 2), (1, 4, 4)), r"Linear.*layer\.weight"),
    "a grid that is a number": (lambda _: rk.resample_linear(M, 4, 16), r"grid=4 .*grid=\(3, 16, 16\)"),
    "a grid as text": (lambda _: rk.resample_linear(M, "1,2,2", "1,4,4"), r"grid='1,2,2' .*grid=\(3, 16, 16\)"),
    "a grid of floats": (lambda _: rk.resample_linear(M, (1, 2.0, 2), (1, 4, 4)), "not a tuple of whole numbers"),
    "a grid of another size": (lambda _: rk.resample_linear(M, (1, 3, 3), (1, 4, 4)), "which has 9 cells"),
    "a kernel for a matrix": (lambda _: rk.resample_linear(W, (1, 2, 2), (1, 4, 4)), r"\(out, in\) weight"),
    "a side": (lambda _: rk.resample_linear(M, (1, 2, 2), (1, 4, 4), side="left"), "neither 'in' nor 'out'"),
    "layers for hidden weights": (lambda _: rk.resample_hidden(FC, None, FC, 8), r"w_in=layer\.weight"),
    "a width as text": (lambda _: rk.resample_hidden(M, None, M, "8"), "width='8' is not a whole number"),
    "no order": (lambda _: rk.resample_hidden(M, None, M, 8, "linear"), "pass order='weights'"),
    "features of one axis": (lambda _: rk.neuron_order(np.ones(3)), r"pass an array \(samples, neurons\)"),
    "features as text": (lambda _: rk.neuron_order("x"), "features is a str, not an array"),
    "no operators": (lambda _: rk.resample(W, None), "not a dict of matrices by axis"),
    "operators in a list": (lambda _: rk.resample(W, [np.eye(3)]), "not a dict of matrices by axis"),
    "an axis by name": (lambda _: rk.resample(W, {"h": np.eye(3)}), "axis 'h' is not one of the 4 axes"),
    "an operator as text": (lambda _: rk.resample(W, {2: "x"}), r"operators\[2\] is a str, not an array"),
    "a weight for its size": (lambda _: rk.kernel_operator(W, 2), "not a kernel size; pass a whole number"),
    "a size as text": (lambda _: rk.kernel_operator("3", 2), "k='3' is not a kernel size"),
    "grids for sizes": (lambda _: rk.grid_operator((16, 16), (32, 32)), "not a grid size"),
    "a kernel's size as text": (lambda _: rk.conv_geometry("3"), "k='3' is not a finite number"),
    "a geometry's scale as text": (lambda _: rk.conv_geometry(3, scale_in="2"), "scale_in='2' is not a finite number"),
}  # fmt: skip
FILES: dict[str, Slip] = {
    "inspect a module": (lambda _: rk.inspect(NET), r"in memory use rekernel\.torch\.rescale"),
    "inspect a state dict": (lambda _: rk.inspect(STATE), r"write them first: safetensors\.torch\.save_file"),
    "inspect bytes": (lambda path: rk.inspect(path.encode()), r"os\.fsdecode\(source\)"),
    "inspect nothing": (lambda _: rk.inspect(None), "pass the name of a file or folder"),
    "inspect what is not there": (lambda path: rk.inspect(path + "x"), "no such file or folder"),
    "plan a module": (lambda _: rk.plan_checkpoint(NET, 2), r"rekernel\.torch\.rescale"),
    "plan with a scale as text": (lambda path: rk.plan_checkpoint(path, "2"), "must be a number above 0"),
    "plan with a size": (lambda path: rk.plan_checkpoint(path, 1024), "did you mean size=1024"),
    "hints as a dict": (lambda path: rk.plan_checkpoint(path, 2, hints={"stride": 2}), r"rekernel\.Hints\(stride="),
    "a pattern that is a number": (lambda path: rk.plan_checkpoint(path, 2, include=3), r"include=\['conv1\*'\]"),
    "a misspelt pattern": (lambda path: rk.plan_checkpoint(path, 2, include="conw"), "near: conv"),
    "overrides in a list": (lambda path: rk.plan_checkpoint(path, 2, overrides=["conv"]), r"overrides=\{'conv1\*'"),
    "a mode": (lambda path: rk.plan_checkpoint(path, 2, mode="grow"), "supersample, absorb"),
    "a preset": (lambda path: rk.plan_checkpoint(path, 2, preset="inner"), "only all is known"),
    "a misspelt argument": (lambda path: rk.convert(path, "o", scale=2, metod="cubic"), r"did you mean method=\?"),
    "the same in a plan": (lambda path: rk.plan_source(path, 2, metod="cubic"), r"did you mean method=\?"),
    "convert a module": (lambda _: rk.convert(NET, "o", scale=2), r"rekernel\.torch\.rescale"),
    "convert without a scale": (lambda path: rk.convert(path, "o"), "needs a scale or a size, or a plan"),
    "a plan as a path": (lambda path: rk.convert(path, "o", plan="plan.json"), r"Plan\.from_json\(text\)"),
    "plans of plan_source": (lambda path: rk.convert(path, "o", plan=rk.plan_source(path, 2)), "plan of the component"),
    "no target": (lambda path: rk.convert(path, None, scale=2), "target is None, not a path"),
    "a dtype": (lambda path: rk.convert(path, "o", scale=2, dtype="int9"), "F16, BF16, F32, F64"),
    "a dtype of torch": (lambda path: rk.convert(path, "o", scale=2, dtype=torch.float16), "pass 'F16'"),
    "a size as text in convert": (lambda path: rk.convert(path, "o", scale=2, max_shard_size="5GB"), "5_000_000_000"),
    "a component of a file": (lambda path: rk.convert(path, "o", scale=2, components="unet"), "not a pipeline folder"),
    "a word for progress": (lambda path: rk.convert(path, "o.safetensors", scale=2, progress="yes"), "progress=True"),
    "estimate without a plan": (lambda path: rk.estimate(path, 2), "pass what plan_checkpoint or plan_source returned"),
    "a plan from a dict": (lambda _: rk.Plan.from_json({"a": 1}), r"read_text\(\)"),
}  # fmt: skip
MODULES: dict[str, Slip] = {
    "rescale a path": (lambda path: rkt.rescale(path, 2, X), "build the network and load its weights first"),
    "rescale a state dict": (lambda _: rkt.rescale(dict(STATE), 2, X), "load this state dict into it first"),
    "rescale a class": (lambda _: rkt.rescale(nn.Conv2d, 2, X), r"pass an instance: Conv2d\(\.\.\.\)"),
    "rescale by text": (lambda _: rkt.rescale(NET, "2", X), "must be a number above 0"),
    "rescale by nothing": (lambda _: rkt.rescale(NET, None, X), "give either scale=2 or size=384"),
    "an example of NumPy": (lambda _: rkt.rescale(NET, 2, X.numpy()), r"pass torch\.from_numpy\(x\)"),
    "a shape for an example": (lambda _: rkt.rescale(NET, 2, (1, 3, 16, 16)), r"pass torch\.zeros\(1, 3, 16, 16\)"),
    "a list for an example": (lambda _: rkt.rescale(NET, 2, [0.0, 1.0]), "pass an input of the trained size"),
    "an example without channels": (lambda _: rkt.rescale(NET, 2, X[0, 0]), r"the example has the \*trained\* size"),
    "an example in double": (lambda _: rkt.rescale(NET, 2, X.double()), "does not run on the example input"),
    "rescale twice": (lambda _: rkt.rescale(LARGER, 2, X), "rescale the original by the product"),
    "a form": (lambda _: rkt.rescale(NET, 2, X, form="sparse"), "plain, dense, factored, auto"),
    "a mode of a module": (lambda _: rkt.rescale(NET, 2, X, mode="grow"), "auto, supersample, absorb"),
    "methods as text": (lambda _: rkt.rescale(NET, 2, X, methods="cubic"), r"methods=\{'conv1\*'"),
    "a number for progress": (lambda _: rkt.rescale(NET, 2, X, progress=3), "progress=True"),
    "save what was not rescaled": (lambda _: rkt.save(NET, "o.safetensors"), r"what rekernel\.torch\.rescale returned"),
    "save the wrong way round": (lambda _: rkt.save("o", LARGER), r"save\(model, path\)"),
    "load the wrong way round": (lambda path: rkt.load(path, NET), r"load\(model, path\)"),
    "a plan as a dict": (lambda path: rkt.load(NET, path, plan={}), r"Plan\.from_json\(text\)"),
    "a module for a name": (lambda path: rkt.load_pretrained(NET, model=NET), "name is a Sequential, not a path"),
    "a path for a model": (lambda path: rkt.load_pretrained(path, model=path), "build the network"),
    "a plan for a model": (lambda path: rkt.apply_plan(rk.plan_checkpoint(path, 2), NET), "pass the network itself"),
    "pictures of NumPy": (lambda _: rkt.equivariance_error(NET, LARGER, X.numpy()), r"pass torch\.as_tensor\(x\)"),
    "a size that is a number": (lambda _: rkt.equivariance_error(NET, LARGER, X, size=8), r"size=\(224, 224\)"),
    "arguments swapped": (lambda _: rkt.layer_errors(NET, X, LARGER, (8, 8)), "rescaled is a Tensor, not a torch.nn"),
    "a grid that is one number": (lambda _: rkt.reduce_grid(X, 8), r"size=\(224, 224\)"),
    "recalibrate a path": (lambda path: rkt.recalibrate(path, [X]), "build the network"),
    "pixels as text": (lambda _: rkt.shift_sensitivity(NET, X, "1"), "pixels='1' is not a finite number"),
    "strides of a path": (lambda path: rkt.total_stride(path, X), "build the network"),
    "theta as text": (lambda _: rkd.UpsampleGuidance(2, theta="1"), "theta='1' is not a finite number"),
    "eta as text": (lambda _: rkd.UpsampleGuidance(2, eta="x"), "eta='x' is not a finite number"),
    "positions by another method": (lambda _: rkd.RescaledPositions(2, "linear"), "interpolate, ntk, yarn, dype"),
    "a module for a pipeline's folder": (lambda _: rkd.load_pipeline(NET), "source is a Sequential, not a path"),
}  # fmt: skip
SLIPS = {**ARRAYS, **FILES, **MODULES}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "in.safetensors"
    safetensors.numpy.save_file({"conv.weight": W, "fc.weight": np.ones((10, 8), np.float32)}, file)
    return str(file)


@pytest.mark.parametrize(("call", "named"), SLIPS.values(), ids=SLIPS)
def test_a_slip_is_answered_briefly_with_what_to_pass(call, named, path, tmp_path):
    with pytest.raises(rk.RekernelError) as caught:
        call(path)
    said = str(caught.value)
    assert re.search(named, said), said
    assert "\n" not in said and len(said) <= 6 * 80, said
    assert not re.search(r"(?<![\w`-])--[a-z]", said), "an option of the command line in an error of Python"
    assert [file.name for file in tmp_path.iterdir()] == ["in.safetensors"]


def test_the_table_is_long_and_no_slip_is_listed_twice():
    assert len(SLIPS) == len(ARRAYS) + len(FILES) + len(MODULES) >= 60
