"""Publish a converted model on the Hugging Face Hub, with a model card that shows how to load it."""

from ..sources.hub_client import HeadMovedError, HubError
from .card import model_card
from .contents import Payload, payload
from .upload import Pushed, push

__all__ = ["HeadMovedError", "HubError", "Payload", "Pushed", "model_card", "payload", "push"]


def __dir__() -> list[str]:
    return sorted(__all__)
