"""Two threads on one network: each gets what it gets alone, and nothing is left behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from rekernel.diffusion import SupersampledKernels, UpsampleGuidance  # noqa: E402
from rekernel.diffusion.denoiser.call import read_call  # noqa: E402
from rekernel.diffusion.denoiser.substitutes import KernelBank, lent  # noqa: E402

CALLS = 20
SIZES = ((16, 16), (8, 8), (24, 24))  # each has kernels of its own; the second is the trained size


def kernels(net, nets):
    return [SupersampledKernels("auto").attach(net)]


def guidance(net, nets):
    return [UpsampleGuidance("auto").attach(net, scheduler=nets.ddim)]


def both(net, nets):
    return kernels(net, nets) + guidance(net, nets)


def rescaled(net, nets):
    return [UpsampleGuidance("auto", predictor="rescaled").attach(net, scheduler=nets.ddim)]


def switched_dense(net, nets):
    return [SupersampledKernels("auto", "all", "optimal", form="dense").attach(net)]


def state(net):
    """What a module has beside tensors and submodules, for each module."""
    return {path: {k: v for k, v in vars(m).items() if not k.startswith("_")} for path, m in net.named_modules()}


@pytest.mark.parametrize("attach", [kernels, guidance, both, rescaled, switched_dense], ids=lambda f: f.__name__)
def test_threads_get_what_each_gets_alone(nets, attach):
    net = nets.conditioned()
    before = state(net)
    parts = attach(net, nets)
    alone = {size: nets.call(net, size) for size in SIZES}
    start = threading.Barrier(len(SIZES))

    def calls(size):
        start.wait()
        return [nets.call(net, size) for _ in range(CALLS)]

    with ThreadPoolExecutor(len(SIZES)) as pool:
        found = dict(zip(SIZES, pool.map(calls, SIZES), strict=True))
    for size, outputs in found.items():
        assert all(torch.equal(output, alone[size]) for output in outputs)
    for part in reversed(parts):
        part.remove()
    assert state(net) == before


def test_the_first_calls_of_all_threads_make_the_same_layers(nets):
    net = nets.conditioned()
    with SupersampledKernels(2).attach(net):
        alone = nets.call(net)
    start = threading.Barrier(4)

    def call(_):
        start.wait()
        return nets.call(net)

    with SupersampledKernels(2).attach(net), ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(output, alone) for output in pool.map(call, range(4)))


@pytest.mark.parametrize("attach", [kernels, both], ids=lambda f: f.__name__)
def test_attaching_and_removing_beside_a_running_thread_leaves_nothing_behind(nets, attach):
    net = nets.conditioned()
    before, untouched = state(net), nets.call(net)
    with_kernels = SupersampledKernels("auto").attach(net)
    possible = [untouched, nets.call(net)]
    with_kernels.remove()
    parts = both(net, nets)
    possible.append(nets.call(net))
    parts[0].remove()
    possible.append(nets.call(net))
    parts[1].remove()
    stop, found = threading.Event(), []

    def keep_calling():
        while not stop.is_set():
            found.append(nets.call(net))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(keep_calling)
        try:
            for _ in range(15):
                for part in attach(net, nets):
                    part.remove()
        finally:
            stop.set()
        running.result()
    assert state(net) == before
    assert torch.equal(nets.call(net), untouched)
    assert all(any(torch.equal(output, one) for one in possible) for output in found)


def test_layers_lent_to_one_thread_are_not_for_a_call_that_began_without_hooks(nets):
    net = nets.conditioned()
    untouched = nets.call(net)
    call = read_call(net, (nets.noise(2, 3, 16, 16), torch.tensor(500), nets.noise(2, 5, 8, seed=1)), {}, None)
    made = KernelBank(net).substitutes(call, (2.0, 2.0), "inner", "optimal", "factored")
    with lent(made), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(nets.call, net).result(), untouched)
        assert not torch.allclose(nets.call(net), untouched, atol=1e-3)
    assert torch.equal(nets.call(net), untouched)
