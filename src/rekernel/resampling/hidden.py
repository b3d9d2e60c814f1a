"""Change the width of a hidden layer: the weights before and after it, its bias, and the order of its neurons.

Scope: three arrays; hidden neurons have no natural order. Not here: checkpoints and plans. Imports NumPy alone.
Derivation: docs/mathematics.md, "Hidden widths". Source: nearest is Net2WiderNet (arXiv 1511.05641) with every neuron
copied equally often; interpolation along ordered neurons is ours.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..messages.arguments import check_array, check_whole
from .arrays import resample_linear
from .methods import GRID_METHODS, Alias, GridMethod, canonical_method

NeuronOrder = Literal["activations", "weights"]
"""By what the neurons of a hidden layer are sorted into a chain."""


def resample_hidden(
    w_in: Any,
    bias: Any | None,
    w_out: Any,
    width: int,
    method: GridMethod | Alias = "nearest",
    *,
    order: NeuronOrder | None = None,
    activations: Any | None = None,
) -> tuple[Any, Any | None, Any]:
    """Give the hidden layer between two linear weights another width.

    The rows of `w_in` and the bias are values along the layer; the columns of `w_out` read the layer. 'nearest' copies
    neurons and preserves the function for every width >= the old one. The other methods mix neighbouring neurons, so
    the neurons must first be sorted such that neighbours respond alike.

    Parameters
    ----------
    w_in : (hidden, in) array
    bias : (hidden,) array or None
    w_out : (out, hidden) array
    width : int
        New number of hidden neurons.
    method : str
        As for `grid_operator`.
    order : {'activations', 'weights'}, optional
        Sort the neurons into a chain first, by correlation of their `activations` or of their own weights.
        Required for every method except 'nearest'.
    activations : (samples, hidden) array, optional
        The layer's output on some data, for order='activations'.

    Returns
    -------
    w_in, bias, w_out : arrays like those given, with `width` for hidden

    Raises
    ------
    RekernelError
        For shapes that disagree about the hidden width, or a method other than 'nearest' without an order.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w1, b, w2, x = rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=(2, 4)), rng.normal(size=3)
    >>> v1, c, v2 = resample_hidden(w1, b, w2, 8)
    >>> bool(np.allclose(v2 @ np.maximum(v1 @ x + c, 0), w2 @ np.maximum(w1 @ x + b, 0)))
    True
    """
    check_array(w_in, "w_in")
    check_array(w_out, "w_out")
    check_whole(width, "width", "128")
    method = canonical_method(method, GRID_METHODS)
    hidden = int(w_in.shape[0])
    if w_out.shape[1] != hidden or (bias is not None and tuple(bias.shape) != (hidden,)):
        raise RekernelError(
            f"w_in {tuple(w_in.shape)}, bias {None if bias is None else tuple(bias.shape)} and w_out "
            f"{tuple(w_out.shape)} do not meet at one hidden width; pass (hidden, in), (hidden,) and (out, hidden)"
        )
    if order is None and method != "nearest":
        raise RekernelError(
            f"method={method!r} mixes neighbouring neurons, and hidden neurons have no order: "
            f"pass order='weights' or order='activations', or method='nearest'"
        )
    if order is not None:
        chain = neuron_order(_features(order, w_in, bias, w_out, activations))
        w_in, w_out = w_in[chain], w_out[:, chain]
        bias = None if bias is None else bias[chain]
    old, new = (1, hidden), (1, width)
    return (
        resample_linear(w_in, old, new, method, side="out"),
        None if bias is None else resample_linear(bias, old, new, method, side="out"),
        resample_linear(w_out, old, new, method, side="in"),
    )


def neuron_order(features: Any) -> NDArray[np.intp]:
    """Sort neurons so that consecutive ones respond alike: a greedy chain over the correlation of their features.

    Parameters
    ----------
    features : (samples, neurons) array

    Returns
    -------
    (neurons,) ndarray of indices, each once

    Examples
    --------
    >>> neuron_order(np.array([[0.0, 5.0, 1.0], [1.0, 0.0, 1.0], [2.0, -5.0, 3.0]])).tolist()
    [1, 2, 0]
    """
    check_array(features, "features")
    if len(features.shape) != 2:
        raise RekernelError(f"features has shape {tuple(features.shape)}; pass an array (samples, neurons)")
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    x = x / np.maximum(np.linalg.norm(x, axis=0), 1e-12)
    alike = x.T @ x
    # Start at the neuron that correlates least with all others, an end of the chain. A chain that starts in the middle
    # would have to jump to its other half.
    current = int(np.argmin(alike.sum(axis=0)))
    np.fill_diagonal(alike, -np.inf)
    chain, left = [current], np.ones(len(alike), dtype=bool)
    left[current] = False
    while left.any():
        current = int(np.argmax(np.where(left, alike[current], -np.inf)))
        left[current] = False
        chain.append(current)
    return np.array(chain)


def _features(order: str, w_in: Any, bias: Any | None, w_out: Any, activations: Any | None) -> NDArray[np.float64]:
    if order == "activations":
        if activations is None or activations.shape[-1] != w_in.shape[0]:
            raise RekernelError(
                f"order='activations' needs activations of shape (samples, {w_in.shape[0]}), "
                f"not {None if activations is None else tuple(activations.shape)}"
            )
        return _host(activations).reshape(-1, w_in.shape[0])
    if order == "weights":
        rows = [_host(w_in).T, _host(w_out)] if bias is None else [_host(w_in).T, _host(bias)[None], _host(w_out)]
        return np.concatenate([r / max(float(np.linalg.norm(r)), 1e-12) for r in rows])
    raise RekernelError(f"order={order!r} is neither 'activations' nor 'weights'")


def _host(x: Any) -> NDArray[np.float64]:
    x = x.detach().cpu().double().numpy() if hasattr(x, "detach") else x
    return np.asarray(x, dtype=np.float64)
