"""What two processes do with one file, in one start of them: each scenario returns what it found, as JSON."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

import rekernel.torch as rkt
from rekernel import RekernelError

from .networks import NETWORKS, Network

SCENARIOS: dict[str, Callable[[Path], Any]] = {}


def scenario(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    SCENARIOS[function.__name__] = function
    return function


def on_meta(network: Network) -> nn.Module:
    with torch.device("meta"):
        return network.build().eval()


def shared(model: nn.Module, network: Network, **options: Any) -> nn.Module:
    together = [model.get_submodule(name) for name in network.tied]
    if together:
        fully_shard(together, **options)
    for module in list(model.modules()):
        if type(module).__name__ in network.shards and module not in together:
            fully_shard(module, **options)
    fully_shard(model, **options)
    return model


def loaded(network: Network, path: Path) -> nn.Module:
    """As the how-to says: layers, processes, weights."""
    model = rkt.load(on_meta(network), path, weights=False)
    return rkt.load(shared(model, network), path)


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def same(model: nn.Module, other: nn.Module) -> bool:
    mine, others = model.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(whole(mine[name]), others[name]) for name in mine)


def error(function: Callable[[], Any]) -> str:
    try:
        function()
    except RekernelError as caught:
        return str(caught)
    return ""


@contextmanager
def bytes_read() -> Iterator[list[int]]:
    """What the system says that this process read, files and pipes together."""

    def now() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    found = [now()]
    yield found
    found[0] = now() - found[0]


@scenario
def networks(folder: Path) -> Any:
    """Each network from each kind of file: equal to the bit, and the same answer."""
    found = {}
    for name, network in NETWORKS.items():
        for path in sorted(folder.glob(f"{name}-*")):
            one, many = rkt.load(network.build().eval(), path), loaded(network, path)
            parts = [p.to_local().numel() for p in many.parameters() if isinstance(p, DTensor)]
            shares = sum(parts) / sum(p.numel() for p in one.parameters())
            with torch.no_grad():
                answers = network.answer(one), network.answer(many)
            found[path.name] = {
                "same": same(many, one), "share": shares, "all": len(parts) == len(list(one.parameters())),
                "off": float((answers[0] - answers[1]).abs().max()), "size": float(answers[0].abs().max()),
            }  # fmt: skip
    return found


@scenario
def rescaled_on_meta(folder: Path) -> Any:
    """No plan from the file: the model is rescaled on the meta device; emptied by `to_empty`, or not."""
    found = {}
    for name, network in NETWORKS.items():
        path = folder / f"{name}-file.safetensors"
        for emptied in (False, True):
            model = rkt.rescale(on_meta(network), 2, network.example("meta"))
            shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
            shared(model, network)
            if emptied:
                model.to_empty(device="cpu")
            rkt.load(model, path)
            found[f"{name} {emptied}"] = {
                "same": same(model, rkt.load(network.build(), path)),
                "shapes": shapes == {key: list(value.shape) for key, value in load_file(path).items()},
            }
    return found


@scenario
def factored(folder: Path) -> Any:
    """The blurs of a factored layer are in no file, and `to_empty` takes their values."""
    network = NETWORKS["conv"]
    path = folder / "factored.safetensors"
    one = rkt.load(network.build().eval(), path)
    off = []
    for emptied in (False, True):
        many = shared(rkt.load(on_meta(network), path, weights=False), network)
        if emptied:
            many.to_empty(device="cpu")
            for buffer in many.buffers():
                buffer.fill_(7)  # what is left in memory is sometimes the old value
        rkt.load(many, path)
        with torch.no_grad():
            off.append(float((network.answer(one) - network.answer(many)).abs().max()))
    return off


@scenario
def placements(folder: Path) -> Any:
    """Each parameter shared out along each of its axes, some with fewer rows than processes; and copied."""
    network, path = NETWORKS["conv"], folder / "conv-file.safetensors"
    mesh, one, found = init_device_mesh("cpu", (2,)), rkt.load(network.build(), path), []
    for axis in range(-1, 4):
        for real in (True, False):
            many = network.rescaled() if real else rkt.load(on_meta(network), path, weights=False)
            for module in many.modules():
                for old in list(module._parameters.values()):
                    if old is None or isinstance(old, DTensor):
                        continue
                    place = Shard(axis) if 0 <= axis < old.ndim else Replicate()
                    new = nn.Parameter(distribute_tensor(torch.zeros_like(old), mesh, [place]))
                    for other in many.modules():
                        other._parameters.update({n: new for n, p in other._parameters.items() if p is old})
            rkt.load(many, path)
            found.append([axis, real, same(many, one), many.one.weight is many.two.weight])
    return found


@scenario
def sizes_of_parts(folder: Path) -> Any:
    """The rows that this process holds of five, and of one."""
    many = loaded(NETWORKS["conv"], folder / "conv-file.safetensors")
    return [many.get_parameter(name).to_local().shape[0] for name in ("five.weight", "last.weight")]


@scenario
def reading(folder: Path) -> Any:
    """Bytes that this process reads of a file of 32 MiB, by the axis along which its weights are shared out."""
    path, mesh, found = folder / "large.safetensors", init_device_mesh("cpu", (2,)), {}
    for axis in (0, 1):
        with torch.device("meta"):
            model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 21, 1), nn.Flatten(), nn.Linear(21 * 14 * 14, 2040))
        rkt.load(model, path, weights=False)
        for module in (m for m in model if list(m.parameters())):
            for name, old in list(module.named_parameters()):
                place = Shard(min(axis, old.ndim - 1))
                setattr(module, name, nn.Parameter(distribute_tensor(torch.empty_like(old), mesh, [place])))
        with bytes_read() as read:
            rkt.load(model, path)
        found[axis] = read[0] / path.stat().st_size
    return found


@scenario
def dtypes(folder: Path) -> Any:
    """On the meta device the dtype of the file counts; elsewhere that of the parameter, as for one process."""
    network, path = NETWORKS["conv"], folder / "conv-file.safetensors"
    model = rkt.load(on_meta(network).bfloat16(), path, weights=False)
    empty = rkt.load(shared(model, network), path)
    model = shared(rkt.load(on_meta(network).bfloat16(), path, weights=False), network).to_empty(device="cpu")
    cast, one = rkt.load(model, path), rkt.load(network.build().bfloat16(), path)
    return [str(empty.five.weight.dtype), str(cast.five.weight.dtype), same(cast, one)]


@scenario
def after_a_pass(folder: Path) -> Any:
    """After a forward pass the root's parameters lie joined, and a load has to reach the parts all the same."""
    network, path = NETWORKS["conv"], folder / "conv-file.safetensors"
    many = fully_shard(rkt.load(on_meta(network), path, weights=False))
    rkt.load(many, path)
    with torch.no_grad():
        for parameter in many.parameters():
            parameter.zero_()
        network.answer(many)
    joined = not isinstance(many.five.weight, DTensor)
    rkt.load(many, path)
    return [joined, same(many, rkt.load(network.build(), path))]


@scenario
def saving(folder: Path) -> Any:
    """What processes save together is what one saves; a file that exists is refused by both."""
    found = {}
    for name, network in NETWORKS.items():
        many = loaded(network, folder / f"{name}-file.safetensors")
        path = folder / f"{name}.again.safetensors"
        rkt.save(many, path)
        found[name] = path.read_bytes() == (folder / f"{name}-file.safetensors").read_bytes()
    found["exists"] = error(lambda: rkt.save(many, path))
    found["nowhere"] = error(lambda: rkt.save(many, folder / "no" / "such" / "out.safetensors"))
    rkt.save(many, path, force=True)
    return found


@scenario
def refusals(folder: Path) -> Any:
    """Each refusal, in one line, in both processes."""
    network, path = NETWORKS["conv"], folder / "conv-file.safetensors"
    original = shared(on_meta(network), network)
    other = shared(rkt.rescale(on_meta(network), 3, network.example("meta")), network)
    many = loaded(network, path)
    before = {name: value.full_tensor().clone() for name, value in many.named_parameters()}
    found = {
        "original": error(lambda: rkt.load(original, path)),
        "scale": error(lambda: rkt.load(other, path)),
        "twice": error(lambda: rkt.rescale(many, 2, network.example())),
        "apply": error(lambda: rkt.apply_plan(original, many.rekernel_plan)),
        "missing": error(lambda: rkt.load(many, folder / "missing.safetensors")),
        "misshapen": error(lambda: rkt.load(many, folder / "misshapen.safetensors")),
        "unexpected": error(lambda: rkt.load(many, folder / "unexpected.safetensors")),
        "nowhere": error(lambda: rkt.load(many, folder / "nowhere.safetensors")),
    }
    found["unchanged"] = all(torch.equal(before[n], p.full_tensor()) for n, p in many.named_parameters())
    return found


@scenario
def torchs_own_reader(folder: Path) -> Any:
    """`torch.distributed.checkpoint` reads converted folders, of one file or several, under the names in the file."""
    import torch.distributed.checkpoint as dcp

    found = {}
    for name in ("conv", "unet"):
        network = NETWORKS[name]
        for path in sorted(p for p in folder.glob(f"{name}-*") if p.is_dir()):
            model = rkt.load(on_meta(network), path, weights=False)
            shared(model, network).to_empty(device="cpu")
            state = model.state_dict()
            dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(path)))
            found[path.name] = same(model, rkt.load(network.build(), path))
    try:
        dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(folder / "unet-file.safetensors")))
        found["file"] = "loads"
    except dcp.api.CheckpointException as caught:  # a BaseException
        found["file"] = type(caught).__name__
    return found


@scenario
def data_parallel(folder: Path) -> Any:
    """A network in `DistributedDataParallel` is saved as itself, and is neither rescaled nor loaded into."""
    network, path = NETWORKS["conv"], folder / "conv-file.safetensors"
    wrapped = nn.parallel.DistributedDataParallel(rkt.load(network.build(), path))
    again = folder / f"ddp-{dist.get_rank()}.safetensors"
    rkt.save(wrapped, again)
    plain = nn.parallel.DistributedDataParallel(network.build())
    return {
        "same": again.read_bytes() == path.read_bytes(),
        "load": error(lambda: rkt.load(plain, path)),
        "rescale": error(lambda: rkt.rescale(plain, 2, network.example())),
        "again": error(lambda: rkt.load(wrapped, path)),
    }


def edited(folder: Path) -> None:
    """Copies of a file with a tensor missing, of another shape, or too many."""
    from safetensors import safe_open

    path = folder / "conv-file.safetensors"
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    rest = {name: value for name, value in tensors.items() if name != "norm.running_var"}
    save_file(rest, folder / "missing.safetensors", metadata)
    save_file({**tensors, "five.bias": torch.zeros(6)}, folder / "misshapen.safetensors", metadata)
    save_file({**tensors, "extra": torch.zeros(1)}, folder / "unexpected.safetensors", metadata)


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    if dist.get_rank() == 0:
        edited(folder)
    dist.barrier()
    found: dict[str, Any] = {}
    for name, function in SCENARIOS.items():
        try:
            found[name] = function(folder)
        except Exception:
            found[name] = traceback.format_exc()
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
