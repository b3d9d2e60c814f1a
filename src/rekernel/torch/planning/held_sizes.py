"""Find the sizes that modules hold beside their weights, and what they become.

A model may divide the image by `patch_size`, compare it with `image_size`, or lay its tokens out on `grid_size`. Only
an attribute changes whose value is the known old size, by one of three kinds of size:

- *patch*: on the modules around a layer that absorbs the scale, the size or the step of that layer;
- *image*: the size of the trained image; around an absorbing layer also the size that a table was trained for;
- *grid*: the number of tokens, where the tokens grow.

Scope: modules, their configurations, and a plan. Not here: changing them (see `torch.editing.held_sizes`), and windows
of attention (see `torch.planning.windows`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...architectures.tokens import is_table
from ...escape import shown
from ...plan.changes import LayerChange
from ...plan.plan import Plan
from ...planning.roles import ABSORB
from ...resampling.geometry import is_whole, new_size
from ..layers.module_names import owner_of
from ..layers.settings_objects import Holder, holders_in

PATCH = ("patch_size", "patch_sizes", "tubelet_size")
STEP = ("patch_stride", "patch_strides", "stride_size")
IMAGE = ("image_size", "img_size", "input_image_size")
IMAGE_AROUND = (*IMAGE, "input_size", "input_resolution", "image_resolution")
"""Names that stand for the size of the image on the modules around the layer that reads it. Elsewhere some may not."""
GRID_AROUND = ("grid_size", "patch_shape", "patch_grid", "tokens_spatial_shape")
GRID = ("input_resolution", "patches_resolution", "feat_size", "image_embedding_size")
VIEW = ("proj_view_shape",)
"""Shapes (*grid, features) of tokens; UNETR."""
Sides = tuple[int, ...]


@dataclass(frozen=True)
class HeldSize:
    """One attribute that changes.

    holder : the module or configuration
    name : name of the attribute
    old, new : its value before and after
    """

    holder: Holder
    name: str
    old: Any
    new: Any


@dataclass
class HeldSizes:
    """All attributes of a model that change, and what is to be said about others.

    sizes : the attributes
    notes : notes about attributes that may have to change and do not
    """

    sizes: list[HeldSize] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self) -> str:
        """One line about all attributes; empty if none changes.

        Examples
        --------
        >>> held = HeldSize(Holder("vit", "", (), None), "patch_size", 8, 16)
        >>> HeldSizes([held]).note()
        'sizes that modules hold change with the plan: patch_size 8 -> 16 (vit)'
        """
        places: dict[str, list[str]] = {}
        for held in self.sizes:
            places.setdefault(f"{held.name} {held.old} -> {held.new}", []).append(shown(str(held.holder)))
        told = []
        for what, where in list(places.items())[:4]:
            more = f" and {len(where) - 2} more" if len(where) > 2 else ""
            told.append(f"{what} ({', '.join(where[:2])}{more})")
        if len(places) > 4:
            told.append(f"{len(places) - 4} more")
        return f"sizes that modules hold change with the plan: {'; '.join(told)}" if told else ""


def held_sizes(model: nn.Module, plan: Plan) -> HeldSizes:
    """Find the attributes of `model` that have to follow `plan`. Nothing is changed.

    Examples
    --------
    >>> import torch
    >>> from rekernel.torch import rescale
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(128, 2))
    >>> net.patch_size = 4
    >>> rescale(net, 2, torch.zeros(1, 3, 16, 16)).patch_size
    8
    """
    found = _Finder(model)
    if plan.resamples:  # the model gets images of the trained size
        return found.held
    images = [(plan.size, _scales(plan, len(plan.size)))] if plan.size else []
    absorbing = [c for c in plan.changed if c.mode == ABSORB and c.kind in ("conv", "patch") and c.new_geometry]
    for change in absorbing:
        images += found.around_reader(change, plan.size)
    tables = [c for c in plan.changed if c.kind == "values" and is_table(c.name)]
    for change in tables:
        images += found.around_table(change, plan.size)
    if not absorbing and not tables and images:
        found.tokens_without_table(*images[0])
    for size, scales in images:
        found.anywhere(size, scales, stages=not absorbing)
    if not images and absorbing:
        found.first_image(absorbing[0])
    return found.held


def _scales(plan: Plan, dims: int) -> tuple[float, ...]:
    return plan.scale if isinstance(plan.scale, tuple) else (plan.scale,) * dims


@dataclass
class _Finder:
    """The search in one model."""

    model: nn.Module
    held: HeldSizes = field(default_factory=HeldSizes)
    seen: set[tuple[int, str]] = field(default_factory=set)

    def around_reader(self, change: LayerChange, size: Sides) -> list[tuple[Sides, tuple[float, ...]]]:
        """Follow a layer that absorbs the scale; return the sizes of images that the modules around it hold."""
        kernel, step = (tuple(getattr(g, what) for g in change.geometry) for what in ("kernel", "stride"))
        scales = tuple(n.stride / g.stride for g, n in zip(change.geometry, change.new_geometry, strict=True))
        around = list(self._around(change.name))
        for holder in around:
            own = holder.path == owner_of(owner_of(change.name)) and not holder.attribute
            for name, value in holder.entries.items():
                if name in STEP:
                    self._follow(holder, name, value, step, scales)
                elif name in PATCH and (kernel == step or own):
                    for known in (kernel, step):
                        self._follow(holder, name, value, known, scales)
                elif name in PATCH and self._is_patch_of_table(value, around):
                    self._follow(holder, name, value, _sides(value, len(scales)), scales)
        cut = kernel == step or any(held.name in (*PATCH, *STEP) for held in self.held.sizes)
        if cut:
            self._beside(change.name, kernel, scales, around)
        images = []
        for holder in around:
            for name, value in holder.entries.items():
                known = _sides(value, len(scales)) if name in IMAGE_AROUND else ()
                whole = len(known) == len(step) and all(n % k == 0 and n > k for n, k in zip(known, step, strict=True))
                if known and (known == size or (whole and (cut or not size))):
                    self._follow(holder, name, value, known, scales)
                    images.append((known, scales))
        return images

    def around_table(self, change: LayerChange, size: Sides) -> list[tuple[Sides, tuple[float, ...]]]:
        """Follow a table of positions that grows; return the sizes of images that the modules around it hold."""
        sides = {o.axis: (o.old, o.new) for o in change.operators}
        first = change.grid_axis if len(change.shape) < 4 else 1
        axes = range(first, first + len(change.view) - len(change.shape) + (1 if len(change.shape) < 4 else 2))
        old = tuple(change.view[axis] for axis in axes)
        scales = tuple(sides[axis][1] / sides[axis][0] if axis in sides else 1.0 for axis in axes)
        self.tokens(old, scales, size, {holder.path for holder in self._around(change.name)})
        for holder in self._around(change.name):
            if holder.entries.get("num_positions") == change.shape[-2]:
                self._add(holder, "num_positions", change.shape[-2], change.new_shape[-2])
        everywhere = (Holder(path, "", (), module) for path, module in self.model.named_modules())
        for holders in (self._around(change.name), everywhere):
            images = []
            for holder in holders:
                for name, value in holder.entries.items():
                    known = _sides(value, len(old)) if name in IMAGE else ()
                    if known and (known == size or _times(known, old)):
                        self._follow(holder, name, value, known, scales)
                        images.append((known, scales))
            if images or size:
                return images
        return []

    def tokens(self, grid: Sides, scales: tuple[float, ...], size: Sides, around: Collection[str] = ()) -> None:
        """Follow a grid of tokens that grows, and the grids that the model makes of it by halving.

        Parameters
        ----------
        grid, scales : tuple
            Tokens along each axis, and what they are multiplied by.
        size : tuple of int
            Pixels of the trained image; empty if unknown.
        around : collection of str
            Paths of modules whose sizes are those of this grid.
        """
        for path, module in self.model.named_modules():
            patch = next((p for name in PATCH if (p := _sides(vars(module).get(name), len(grid)))), ())
            fits = len(size) == len(patch) and tuple(n // p for n, p in zip(size, patch, strict=True)) == grid
            cuts = bool(patch) and (fits or not size)
            holder = Holder(path, "", (), module)
            for name, value in holder.entries.items():
                if name == "num_patches" and (cuts or path in around) and value == math.prod(grid):
                    new = math.prod(new_size(n, s) for n, s in zip(grid, scales, strict=True))
                    self._add(holder, name, value, new)
                elif name in GRID_AROUND and (cuts or path in around):
                    self._follow(holder, name, value, grid, scales)
                elif name in GRID and (known := _sides(value, len(grid))) and _halved(known, grid):
                    self._follow(holder, name, value, known, scales)
                elif name in VIEW and isinstance(value, list) and tuple(value[:-1]) == grid:
                    self._follow(holder, name, value, tuple(value), (*scales, 1.0))

    def tokens_without_table(self, size: Sides, scales: tuple[float, ...]) -> None:
        """Follow the grids of tokens of a network without a table of positions, such as Swin."""
        if any(is_table(name) for name, _ in self.model.named_parameters()):
            return  # the model interpolates its table, whose size these attributes may tell
        for module in self.model.modules():
            patch = next((p for name in PATCH if (p := _sides(vars(module).get(name), len(size)))), ())
            if patch and all(n % p == 0 for n, p in zip(size, patch, strict=True)):
                self.tokens(tuple(n // p for n, p in zip(size, patch, strict=True)), scales, size)

    def anywhere(self, size: Sides, scales: tuple[float, ...], *, stages: bool = False) -> None:
        """Follow the size of the image in every module; with `stages`, also halved, where a module cuts patches."""
        for path, module in self.model.named_modules():
            holder = Holder(path, "", (), module)
            cuts = stages and any(name in PATCH for name in vars(module))
            for name, value in holder.entries.items():
                if (
                    name in IMAGE
                    and (known := _sides(value, len(size)))
                    and (known == size or (cuts and _halved(known, size)))
                ):
                    self._follow(holder, name, value, known, scales)

    def first_image(self, change: LayerChange) -> None:
        """Follow the first size of an image, where no module around the reading layer holds one."""
        scales = tuple(n.stride / g.stride for g, n in zip(change.geometry, change.new_geometry, strict=True))
        for module in self.model.modules():
            for name in IMAGE:
                if known := _sides(vars(module).get(name), len(scales)):
                    self.anywhere(known, scales)
                    return

    def _around(self, tensor: str) -> Iterator[Holder]:
        """The modules around a layer, and the configurations that they keep, from the outside in."""
        paths, path = [], owner_of(tensor)
        while path:
            path = owner_of(path)
            paths.append(path)
        for path in [""] if not paths else reversed(paths):
            yield from holders_in(path, self.model.get_submodule(path))

    def _is_patch_of_table(self, value: Any, around: Sequence[Holder]) -> bool:
        """Whether a size divides an image into as many patches as a table has positions: several layers cut them."""
        tables = [int(p.shape[-2]) for name, p in self.model.named_parameters() if is_table(name) and p.ndim > 1]
        images = [i for holder in around for name in IMAGE if (i := _sides(holder.entries.get(name), 2))]
        patch = _sides(value, 2)
        return bool(patch) and any(
            0 <= count - math.prod(n // p for n, p in zip(image, patch, strict=True)) <= 9
            for image in images for count in tables
        )  # fmt: skip

    def _beside(self, tensor: str, kernel: Sides, scales: Sequence[float], around: Sequence[Holder]) -> None:
        """Follow the size of a patch in the other modules of the backbone, and note it in modules outside.

        Layers of BEiT divide the image by it. The head of Depth Anything multiplies the grid of its output by it.
        """
        near, backbone = {holder.path for holder in around}, self._backbone(tensor)
        for path, module in self.model.named_modules():
            value = vars(module).get("patch_size")
            own = any(isinstance(m, nn.modules.conv._ConvNd) and m.kernel_size == kernel for m in module.children())
            if path in near or own or _sides(value, len(kernel)) != kernel:
                continue
            if f"{path}.".startswith(f"{backbone}.".removeprefix(".")):
                self._follow(Holder(path, "", (), module), "patch_size", value, kernel, scales)
            else:
                self.held.notes.append(
                    f"{shown(path)}: its patch_size of {value} stays, since it is outside the network that reads the "
                    f"image, {shown(backbone)}"
                )

    def _backbone(self, tensor: str) -> str:
        """The path of the smallest module around a layer that holds linear layers, too."""
        path = owner_of(tensor)
        while path:
            path = owner_of(path)
            if any(isinstance(m, nn.Linear) for m in self.model.get_submodule(path).modules()):
                break
        return path

    def _follow(self, holder: Holder, name: str, value: Any, old: Sides, scales: Sequence[float]) -> bool:
        """Follow an attribute if its value is `old`, along all axes or along the last two."""
        known = _sides(value, len(old))
        if len(old) == 3 and not known and (pair := _sides(value, 2)):
            known, old, scales = pair, old[1:], scales[1:]
        if not known or known != tuple(old) or not all(is_whole(n * s) for n, s in zip(known, scales, strict=True)):
            return False
        new = tuple(round(n * s) for n, s in zip(known, scales, strict=True))
        if new == known:
            return False
        self._add(holder, name, value, _alike(value, new))
        return True

    def _add(self, holder: Holder, name: str, old: Any, new: Any) -> None:
        if (id(holder.holds), name) not in self.seen:
            self.seen.add((id(holder.holds), name))
            self.held.sizes.append(HeldSize(holder, name, old, new))


def _sides(value: Any, dims: int) -> Sides:
    """A size along each axis, from one number for all or from one per axis; empty for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return (value,) * dims
    if isinstance(value, tuple | list) and len(value) == dims and all(type(n) is int and n > 0 for n in value):
        return tuple(value)
    return ()


def _alike(value: Any, new: Sides) -> Any:
    """`new` in the form of `value`: one number if that was one, else a tuple or list."""
    if isinstance(value, int):
        return new[0] if len(set(new)) == 1 else new
    return list(new) if isinstance(value, list) else new


def _times(sides: Sides, grid: Sides) -> bool:
    """Whether a size is the same whole multiple of a grid along each axis.

    Examples
    --------
    >>> _times((64, 32), (16, 8)), _times((64, 64), (16, 8))
    (True, False)
    """
    return (
        all(n % g == 0 for n, g in zip(sides, grid, strict=True))
        and len({n // g for n, g in zip(sides, grid, strict=True)}) == 1
    )


def _halved(sides: Sides, grid: Sides) -> bool:
    """Whether a grid is that of the tokens, or that grid halved a number of times.

    Examples
    --------
    >>> _halved((14, 14), (56, 56)), _halved((7, 14), (56, 56))
    (True, False)
    """
    return any(sides == tuple(-(-n // 2**k) for n in grid) for k in range(7))
