"""Say which weights a quantizer packed: their shapes are those of bytes, so that no rule knows their layers.

Scope: names of the tensors that quantizers write beside a weight. Not here: integer and float8 dtypes, whose shapes are
those of the layer (see `planning.by_name`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..escape import shown
from ..patterns import layer_of
from ..text import few

_BESIDE = {
    "bitsandbytes": (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4", ".SCB"),
    "GPTQ or AWQ": (".qzeros",),
}
"""How the names of the tensors end that each quantizer writes beside a packed weight."""


def quantized_notes(names: Iterable[str]) -> list[str]:
    """The note about weights that are packed into fewer bits; none where there are none.

    Examples
    --------
    >>> quantized_notes(["fc.weight", "fc.weight.quant_state.bitsandbytes__nf4"])
    ['fc: packed into fewer bits by bitsandbytes, which hides its shape; left as it is. Convert the weights from before
    the quantization, and quantize the result']
    >>> quantized_notes(["fc.weight", "fc.bias"])
    []
    """
    names = list(names)
    notes = []
    for quantizer, endings in _BESIDE.items():
        found = [name.removesuffix(end) for name in names for end in endings if name.endswith(end)]
        if found:
            shape, it_is = ("their shapes", "they are") if len(found) > 1 else ("its shape", "it is")
            layers = few([shown(layer_of(name)) for name in found], 3)
            notes.append(
                f"{layers}: packed into fewer bits by {quantizer}, which hides {shape}; left as {it_is}. Convert the "
                f"weights from before the quantization, and quantize the result"
            )
    return notes
