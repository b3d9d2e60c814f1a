"""Hidden widths: what keeps the function, what mixes strangers, and how neighbours are found."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rekernel as rk

Layers = tuple[np.ndarray, np.ndarray | None, np.ndarray]


def layers(hidden: int, seed: int = 0) -> Layers:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(hidden, 5)), rng.normal(size=hidden), rng.normal(size=(3, hidden))


def smooth_layers(hidden: int) -> Layers:
    """Neurons along a curve: neighbours nearly equal, ends far apart."""
    t = np.linspace(0, 1, hidden)
    w_in = np.stack([np.cos(1.5 * t), np.sin(1.5 * t), t], axis=1)
    return w_in, 0.1 * t, np.stack([1 + t, 2 - t**2])


def network(weights: Layers, x: np.ndarray) -> np.ndarray:
    w_in, bias, w_out = (None if w is None else np.asarray(w, np.float64) for w in weights)
    return np.maximum(x @ w_in.T + (0 if bias is None else bias), 0) @ w_out.T


def inputs(width: int, n: int = 40) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(n, width))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(hidden=st.integers(1, 12), extra=st.integers(0, 30), with_bias=st.booleans(), seed=st.integers(0, 50))
def test_nearest_preserves_the_function_at_any_larger_width(hidden, extra, with_bias, seed):
    w_in, bias, w_out = layers(hidden, seed)
    bias = bias if with_bias else None
    wide = rk.resample_hidden(w_in, bias, w_out, hidden + extra)
    assert wide[0].shape == (hidden + extra, 5)
    assert wide[2].shape == (3, hidden + extra)
    assert (wide[1] is None) == (not with_bias)
    x = inputs(5)
    np.testing.assert_allclose(network(wide, x), network((w_in, bias, w_out), x), atol=1e-9)


def test_a_narrower_layer_cannot_keep_a_random_function():
    weights, x = layers(8), inputs(5)
    narrow = rk.resample_hidden(*weights, 5)
    assert np.abs(network(narrow, x) - network(weights, x)).max() > 0.1


@pytest.mark.parametrize("order", ["weights", "activations"])
@pytest.mark.parametrize("width", [8, 16, 19])
def test_ordering_the_neurons_preserves_the_function(order, width):
    weights, x = layers(8), inputs(5)
    activations = np.maximum(x @ weights[0].T + weights[1], 0) if order == "activations" else None
    sorted_ = rk.resample_hidden(*weights, width, order=order, activations=activations)
    np.testing.assert_allclose(network(sorted_, x), network(weights, x), atol=1e-9)
    if width == 8:  # the same neurons, and in another place
        assert sorted(sorted_[1]) == sorted(weights[1])
        assert not np.array_equal(sorted_[1], weights[1])


@pytest.mark.parametrize("method", ["linear", "cubic", "optimal", "area", "pinv-linear"])
def test_interpolating_neurons_without_an_order_is_refused(method):
    with pytest.raises(rk.RekernelError, match=rf"method='{method}' mixes neighbouring neurons.*order='weights'"):
        rk.resample_hidden(*layers(8), 16, method)


@pytest.mark.parametrize("order", ["weights", "activations"])
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_order_makes_interpolation_of_shuffled_neurons_work(order, method):
    smooth, x = smooth_layers(32), inputs(3)
    shuffle = np.random.default_rng(1).permutation(32)
    w_in, bias, w_out = smooth[0][shuffle], smooth[1][shuffle], smooth[2][:, shuffle]
    activations = np.maximum(x @ w_in.T + bias, 0)

    def error(wide: Layers) -> float:
        difference = network(wide, x) - network(smooth, x)
        return float(np.linalg.norm(difference) / np.linalg.norm(network(smooth, x)))

    ordered = error(rk.resample_hidden(w_in, bias, w_out, 64, method, order=order, activations=activations))
    # The same interpolation of the neurons as they lie, which resample_hidden refuses.
    strangers = (
        rk.resample(w_in, {0: rk.grid_operator(32, 64, method, gain="none")}),
        rk.resample(bias, {0: rk.grid_operator(32, 64, method, gain="none")}),
        rk.resample(w_out, {1: rk.grid_operator(32, 64, method)}),
    )
    assert ordered < 0.01
    assert error(strangers) > 5 * ordered


@settings(max_examples=50, deadline=None, derandomize=True)
@given(neurons=st.integers(1, 20), samples=st.integers(1, 10), seed=st.integers(0, 99), constant=st.booleans())
def test_neuron_order_is_a_permutation(neurons, samples, seed, constant):
    features = np.random.default_rng(seed).normal(size=(samples, neurons))
    if constant:
        features[:, ::2] = 1.0  # dead neurons have no correlation
    assert sorted(rk.neuron_order(features).tolist()) == list(range(neurons))


@pytest.mark.parametrize("seed", range(5))
def test_neuron_order_recovers_a_shuffled_chain_up_to_reversal(seed):
    at = np.linspace(0, 6, 24)
    bumps = np.exp(-((np.linspace(-2, 8, 200)[:, None] - at) ** 2))  # neuron i fires around at[i]
    shuffle = np.random.default_rng(seed).permutation(24)
    chain = shuffle[rk.neuron_order(bumps[:, shuffle])]
    assert chain.tolist() in (list(range(24)), list(range(24))[::-1])


def test_frameworks_agree_and_keep_their_dtype():
    weights = [w.astype(np.float32) for w in layers(6)]
    expected = rk.resample_hidden(*weights, 9, "linear", order="weights")
    torchs = rk.resample_hidden(*map(torch.tensor, weights), 9, "linear", order="weights")
    jaxs = rk.resample_hidden(*map(jnp.asarray, weights), 9, "linear", order="weights")
    for got in (torchs, jaxs):
        for ours, theirs in zip(expected, got, strict=True):
            np.testing.assert_allclose(np.asarray(theirs), ours, atol=1e-6)
    half = rk.resample_hidden(*(torch.tensor(w).bfloat16() for w in weights), 9, "linear", order="weights")
    assert {w.dtype for w in half} == {torch.bfloat16}


def test_inputs_are_not_modified():
    weights = layers(6)
    kept = [w.copy() for w in weights]
    for width in (6, 9):
        for out in rk.resample_hidden(*weights, width, order="weights"):
            out[...] = 0
    assert all(np.array_equal(w, k) for w, k in zip(weights, kept, strict=True))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({0: np.ones((7, 5))}, {}, r"w_in \(7, 5\), bias \(8,\) and w_out \(3, 8\) do not meet"),
        ({1: np.ones(7)}, {}, r"bias \(7,\)"),
        ({1: None, 2: np.ones((3, 7))}, {}, r"bias None and w_out \(3, 7\)"),
        ({}, {"order": "names"}, "order='names' is neither"),
        ({}, {"order": "activations"}, r"activations of shape \(samples, 8\), not None"),
        ({}, {"order": "activations", "activations": np.ones((4, 5))}, r"\(samples, 8\), not \(4, 5\)"),
        ({}, {"method": "dilate"}, "method='dilate'"),
        ({}, {"width": 0}, "width=0"),
    ],
)
def test_errors_name_what_does_not_meet(change, options, message):
    weights = [change.get(i, w) for i, w in enumerate(layers(8))]
    with pytest.raises(rk.RekernelError, match=message):
        rk.resample_hidden(*weights, **{"width": 16, **options})
