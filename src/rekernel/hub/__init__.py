"""rekernel and the Hugging Face Hub: publishing a converted model with a card that loads it."""

from ..sources.hub_client import HeadMovedError, HubError
from .card import model_card
from .contents import Payload, payload
from .upload import Pushed, push

__all__ = ["HeadMovedError", "HubError", "Payload", "Pushed", "model_card", "payload", "push"]
