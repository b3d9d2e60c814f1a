"""Read the pictures of `rekernel verify`: a folder, one picture, or arrays, as the input of a network.

Scope: pixels and labels. Not here: how a network's pictures are normalised (see `verifying.preprocessing`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rekernel.errors import RekernelError
from rekernel.escape import shown, shown_path
from rekernel.text import dims, few
from rekernel.torch import reduce_grid

from .preprocessing import Preprocessing

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_COLOURS = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Data:
    """What a network is compared on.

    images : (N, C, *new size) float32
    labels : class numbers, or None
    notes : sentences about the pictures, for a person
    """

    images: Tensor
    labels: NDArray[Any] | None
    notes: tuple[str, ...] = ()


def read_data(
    path: Path,
    channels: int,
    new: tuple[int, ...],
    how: Preprocessing,
    *,
    most: int,
    label_file: Path | None = None,
    numbers: Mapping[str, int] | None = None,
) -> Data:
    """Read pictures of any kind.

    Parameters
    ----------
    path : a folder of pictures, one picture, an .npy or an .npz file
    channels, new : shape of the network's input at the new size
    how : Preprocessing
        For pictures and whole numbers. Floating-point arrays are taken as they are, unless an option says mean or std.
    most : int
        At most so many pictures of a folder, spread evenly.
    label_file : path, optional
        Labels as .npy, or as text with one number a line.
    numbers : mapping, optional
        Class numbers by name, for pictures in a subfolder for each class.

    Raises
    ------
    RekernelError
        For anything that is not such pictures; the message names the file.
    """
    if not path.exists():
        raise RekernelError(f"{shown_path(path)}: no such file or folder")
    if path.is_dir() or path.suffix.lower() in ENDINGS:
        data = _from_pictures(path, channels, new, how, most, numbers or {})
    elif path.suffix.lower() in (".npz", ".npy"):
        data = _from_arrays(path, channels, new, how)
    else:
        raise RekernelError(f"{shown_path(path)}: is neither a folder, a picture ({', '.join(ENDINGS)}), .npy nor .npz")
    if label_file is not None:
        data = Data(data.images, _labels(label_file), data.notes)
    if data.labels is not None and len(data.labels) != len(data.images):
        where = label_file if label_file is not None else path
        raise RekernelError(
            f"{shown_path(where)}: {len(data.labels)} labels for {len(data.images)} pictures; give one class number "
            f"for each picture, in the order of the pictures"
        )
    return data


def _from_pictures(
    path: Path, channels: int, new: tuple[int, ...], how: Preprocessing, most: int, numbers: Mapping[str, int]
) -> Data:
    if channels not in _COLOURS or len(new) != 2:
        raise RekernelError(
            f"{shown_path(path)}: pictures have 1 or 3 channels and 2 axes, and this network reads {channels} channels "
            f"at {dims(new)}; pass arrays (.npy, .npz)"
        )
    files = _files(path)
    chosen = files if len(files) <= most else [files[i * len(files) // most] for i in range(most)]
    notes = [f"{most} of {len(files)} pictures, spread evenly (--limit)"] if len(chosen) < len(files) else []
    pixels, enlarged = [], 0
    for file in chosen:
        picture, grew = _picture(file, channels, new, how)
        pixels.append(picture)
        enlarged += grew
    if enlarged:
        notes.append(
            f"{enlarged} of {len(chosen)} pictures are smaller than {dims(new[::-1])} and were enlarged; they have no "
            f"detail that the trained size lacks"
        )
    labels, note = _by_folder(path, chosen, numbers)
    return Data(_normalised(np.stack(pixels), how, channels), labels, (*notes, *([note] if note else [])))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
    if not found:
        inside = sorted(file.name for file in path.iterdir())
        raise RekernelError(
            f"{shown_path(path)}: holds no pictures ({', '.join(ENDINGS)}); it has {few([shown(n) for n in inside])}"
        )
    return found


def _picture(file: Path, channels: int, new: tuple[int, ...], how: Preprocessing) -> tuple[NDArray[np.float32], bool]:
    """(C, H, W) in bytes' units, and whether the picture was enlarged: resized to cover the size, cut at its centre."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise RekernelError(f"{shown_path(file)}: pictures need Pillow: pip install pillow") from None
    height, width = new
    try:
        with Image.open(file) as opened:
            image: Any = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # Pillow would cut these off at 255
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            image = image.convert(_COLOURS[channels])
    except Image.DecompressionBombError:
        raise RekernelError(f"{shown_path(file)}: is larger than Pillow opens ({Image.MAX_IMAGE_PIXELS:,})") from None
    except OSError as error:
        if error.strerror:
            raise
        raise RekernelError(f"{shown_path(file)}: is not a picture that Pillow can read") from None
    except (SyntaxError, ValueError, EOFError):  # Pillow's readers raise these on damaged files
        raise RekernelError(f"{shown_path(file)}: is a damaged picture") from None
    grown = max(height / image.height, width / image.width)
    times = grown * how.around
    size = max(width, round(image.width * times)), max(height, round(image.height * times))
    resized = image.resize(size, how.filter)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    pixels = np.asarray(resized.crop((left, top, left + width, top + height)), np.float32)
    return (pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)), grown > 1


def _by_folder(path: Path, files: list[Path], numbers: Mapping[str, int]) -> tuple[NDArray[Any] | None, str]:
    """Labels from the names of subfolders, one for each class, and what was assumed."""
    if path.is_file() or any(file.parent == path for file in files):
        return None, ""
    names = [file.relative_to(path).parts[0] for file in files]
    each = sorted(set(names))
    known = {name.casefold(): number for name, number in numbers.items()}
    if all(name.casefold() in known for name in each):
        return np.array([known[name.casefold()] for name in names]), ""
    if all(name.isdecimal() for name in each):
        return np.array([int(name) for name in names]), ""
    whole = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    if numbers and len(whole) != len(numbers):
        return None, f"the subfolders ({few([shown(n) for n in each], 3)}) are not the names of the model's classes"
    order = {name: number for number, name in enumerate(whole)}
    return (
        np.array([order[name] for name in names]),
        "subfolders are taken for the classes in alphabetical order, as torchvision's ImageFolder does",
    )


def _from_arrays(path: Path, channels: int, new: tuple[int, ...], how: Preprocessing) -> Data:
    found, labels = _arrays(path)
    where, given = shown_path(path), found.shape
    if found.dtype.kind not in "biuf":
        raise RekernelError(f"{where}: images of type {found.dtype} are not pixels; save numbers")
    images = _channels_first(found, channels, len(new))
    if images is None or len(images) == 0 or any(n < m for n, m in zip(images.shape[2:], new, strict=True)):
        raise RekernelError(
            f"{where}: images {given} do not fit {channels} channels at {new} or larger; (N, H, W), (N, C, H, W) and "
            f"(N, H, W, C) are read"
        )
    whole = images.dtype.kind in "iu"
    if whole and images.dtype == np.uint16:
        images = images / 257
    if whole and (images.min() < 0 or images.max() > 255):
        raise RekernelError(
            f"{where}: whole numbers from {images.min()} to {images.max()} are not pixels from 0 to 255; save them as "
            f"floats, normalised as in training"
        )
    pixels = images.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise RekernelError(f"{where}: has values that are not finite numbers")
    if whole:
        x = _normalised(pixels, how, channels)
    elif how.origin in ("--mean", "--std"):
        x = _normalised(pixels * np.float32(1 / how.factor), how, channels)
    else:
        x = torch.from_numpy(pixels)
    return Data(reduce_grid(x, new), labels)


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    where = shown_path(path)
    try:
        with path.open("rb") as file:
            loaded = np.load(file)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            if "images" not in loaded:
                raise RekernelError(f"{where}: lacks an array `images`; it has {few(list(map(shown, loaded.files)))}")
            return loaded["images"], loaded.get("labels")
    except RekernelError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise RekernelError(
            f"{where}: is damaged, or holds Python objects, which are not read; save arrays of numbers"
        ) from None


def _channels_first(images: NDArray[Any], channels: int, axes: int) -> NDArray[Any] | None:
    """(N, C, *spatial) of arrays with or without a batch and a channel axis; None if they fit in no way."""
    if images.ndim == axes + 1:
        if channels == 1:
            return images[:, None]
        images = images[None]  # one picture
    if images.ndim != axes + 2:
        return None
    if images.shape[1] != channels and images.shape[-1] == channels:
        images = np.moveaxis(images, -1, 1)
    return images if images.shape[1] == channels else None


def _normalised(pixels: NDArray[Any], how: Preprocessing, channels: int) -> Tensor:
    """(N, C, ...) in bytes' units as the network's input."""
    how.check(channels)
    each = (1, -1) + (1,) * (pixels.ndim - 2)
    mean, std = (np.asarray(values, np.float32).reshape(each) for values in (how.mean, how.std))
    return torch.from_numpy((pixels.astype(np.float32) * np.float32(how.factor) - mean) / std)


def _labels(path: Path) -> NDArray[Any]:
    if path.is_dir():
        raise RekernelError(
            f"{shown_path(path)}: is a folder; --labels is a file of class numbers, .npy or text with one number a "
            f"line. For a folder with a subfolder for each class, --data alone is enough"
        )
    if path.suffix.lower() == ".npy":
        return _arrays(path)[0]
    try:
        text = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError:
        raise RekernelError(f"{shown_path(path)}: is neither .npy nor text with one class number a line") from None
    wrong = next((word for word in text if not word.isdecimal()), None)
    if wrong is not None:
        raise RekernelError(f"{shown_path(path)}: {shown(wrong, 60)} is not a class number; write one number a line")
    return np.array([int(word) for word in text])
