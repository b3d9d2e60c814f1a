"""Make the networks that the metrics look through, and say in one line what is missing for one.

Scope: names and files. Not here: the metrics (see `measuring`).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from rekernel.errors import RekernelError
from rekernel.escape import cause, shown_path


class MissingNetworkError(RekernelError):
    """A network of a metric that cannot be had here; the message is the reason."""


class _Features(nn.Module):
    """A TorchScript network as torchmetrics takes one: (N, 3, H, W) uint8 -> (N, F) float32."""

    def __init__(self, network: Any, size: int) -> None:
        super().__init__()
        self.network, self.num_features = network, size

    def forward(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.network(pictures)
        return found.float()


def feature_network(name: str) -> Any:
    """What torchmetrics takes as `feature`: 2048 for its own Inception, or the network in a TorchScript file.

    Raises
    ------
    MissingNetworkError
        Where torch-fidelity is not installed, and for a file that is not such a network.
    """
    if name == "inception":
        from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

        if not _TORCH_FIDELITY_AVAILABLE:
            raise MissingNetworkError("features: inception needs torch-fidelity: pip install torch-fidelity")
        return 2048
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and feature networks are published in it
            network = torch.jit.load(name, map_location="cpu").eval()
            found = network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    except Exception as error:
        raise MissingNetworkError(
            f"{shown_path(name)}: is not a TorchScript network of (N, 3, H, W) uint8: {cause(error)}"
        ) from None
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        raise MissingNetworkError(f"{shown_path(name)}: does not return (N, F) for (N, 3, H, W)")
    return _Features(network, found.shape[1])


class _Clip(nn.Module):
    """A CLIP model whose features are tensors, as torchmetrics 1.9 reads them; transformers 5 wraps them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *args: Any, **kwargs: Any) -> Tensor:
        return _tensor(self.model.get_image_features(*args, **kwargs))

    def get_text_features(self, *args: Any, **kwargs: Any) -> Tensor:
        return _tensor(self.model.get_text_features(*args, **kwargs))


def _tensor(found: Any) -> Tensor:
    result: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return result


def clip_score(name: str) -> Any:
    """torchmetrics' CLIPScore with a CLIP model from the Hub or a folder.

    Raises
    ------
    MissingNetworkError
        Where the model cannot be loaded.
    """
    from torchmetrics.multimodal.clip_score import CLIPScore
    from transformers import AutoProcessor, CLIPModel

    try:
        model = _Clip(CLIPModel.from_pretrained(name)).eval()
        processor = AutoProcessor.from_pretrained(name)
    except Exception as error:
        raise MissingNetworkError(f"clip: {shown_path(name)} cannot be loaded: {cause(error)}") from None
    return CLIPScore(model_name_or_path=lambda: (model, processor))
