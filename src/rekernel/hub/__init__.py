"""Publish a converted model on the Hugging Face Hub, with a model card that shows how to load it."""

from typing import TYPE_CHECKING, Any

from ..messages.missing_name import missing_name
from ..sources.hub_client import HeadMovedError, HubError
from .card import model_card
from .contents import Payload, payload
from .upload import Pushed, push

__all__ = ["HeadMovedError", "HubError", "Payload", "Pushed", "model_card", "payload", "push"]


if not TYPE_CHECKING:  # a type checker shall go on finding names that do not exist

    def __getattr__(name: str) -> Any:
        """Say what a misspelt name may mean."""
        raise missing_name(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
