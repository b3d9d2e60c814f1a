"""Describe one call of a traced pass that reads the image grid.

Scope: the record. Not here: when a call is recorded (see `tracing.recorder`), and what becomes of its layer (see
`torch.planning`).
"""

from __future__ import annotations

from dataclasses import dataclass

from .tensor_state import Pad


@dataclass(frozen=True)
class LayerCall:
    """One call that reads the image grid.

    index : number of the call, from 1; 0 stands for the input of the model
    kind : 'conv', 'conv-transpose', 'max-pool', 'avg-pool', 'adaptive-pool', 'upsample', 'linear', 'linear-out',
        'attention', 'positions', 'by-pixel', 'other'
    module : path of the innermost module in which the call happened
    sources : indices of the calls whose results it reads
    weight : full name of the weight parameter, or empty
    size, out_size : pixels of the grid before and after, one number per spatial axis
    kernel : number of taps of a convolution, per spatial axis
    by_hand : explicit padding (`F.pad`) just before the call, (left, right) per spatial axis
    by_hand_mode : mode of that padding; 'constant' is padding with zeros
    inside : whether the convolution's own forward method did that padding
    prefix : number of tokens in front of the image tokens, for position embeddings
    keys : number of tokens that each token attends to, for attention
    grid : the flattened grid (C, *spatial) that a linear layer reads or writes
    order : 'channels-first' or 'channels-last', the order of that grid
    fixed : whether the output size is a number in the call and not a ratio
    what : for 'by-pixel' and 'other', the name of the function; for 'linear-out', the nn.Unflatten behind it, if there
        is one
    """

    index: int
    kind: str
    module: str
    sources: frozenset[int]
    weight: str = ""
    size: tuple[int, ...] = ()
    out_size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    by_hand: tuple[Pad, ...] = ()
    by_hand_mode: str = "constant"
    inside: bool = False
    prefix: int = 0
    keys: int = 0
    grid: tuple[int, ...] = ()
    order: str = ""
    fixed: bool = False
    what: str = ""
