"""Sources that are not on the disk: addresses on the Hugging Face Hub, their headers, their files.

Nothing here imports the Hub's client before an address is used.
"""

from .address import Address, address_of
from .hub_client import HeadMovedError, HubError
from .hub_place import RemotePlace
from .opening import local_path, looked_at
from .place import Origin, Place

__all__ = [
    "Address",
    "HeadMovedError",
    "HubError",
    "Origin",
    "Place",
    "RemotePlace",
    "address_of",
    "local_path",
    "looked_at",
]
