"""Compare two sets of answers of one classifier, label-free.

Scope: logits. Not here: networks and pictures.
"""

from __future__ import annotations

from torch import Tensor


def agreement(logits: Tensor, reference: Tensor) -> float:
    """Share of rows whose largest entry is at the same place.

    Examples
    --------
    >>> import torch
    >>> agreement(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    0.5
    """
    return float((logits.argmax(1) == reference.argmax(1)).double().mean())


def divergence(logits: Tensor, reference: Tensor) -> float:
    """Kullback-Leibler divergence of softmax(logits) from softmax(reference), in nats, averaged over the rows.

    Examples
    --------
    >>> import torch
    >>> even, sure = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log()
    >>> round(divergence(even, sure), 4)  # 3/4 log(3/2) + 1/4 log(1/2)
    0.1308
    """
    own, other = reference.double().log_softmax(1), logits.double().log_softmax(1)
    return float((own.exp() * (own - other)).sum(1).mean())
