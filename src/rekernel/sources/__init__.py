"""Sources that are not on the disk: addresses on the Hugging Face Hub, their headers, their files.

Nothing here imports the Hub's client before an address is used.
"""

from .address import Address, address_of
from .hub_client import HeadMovedError, HubError
from .hub_place import Origin, Place, RemotePlace, local_path, looked_at

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
