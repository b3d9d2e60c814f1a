"""Measure every row of a study: one model, size and method over all prompts and seeds.

Scope: pictures that exist, and figures. Not here: the networks (see `feature_networks`), the measure of repeated
content (see `repetition`), pages (see `study_report`).
"""

from __future__ import annotations

import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from feature_networks import MissingNetworkError, clip_score, feature_network
from PIL import Image, ImageOps, UnidentifiedImageError
from repetition import mean_frequency, repetition
from study import Metrics, Study, StudyError, reference_pictures
from torch import Tensor
from work_items import DONE, FAILED, SKIPPED, Item, Store, items_of

from rekernel.escape import shown_path

Row = dict[str, Any]
Records = Sequence[tuple[Item, dict[str, Any]]]
Pictures = Iterator[Tensor]
"""Of (3, H, W) uint8."""


def measured(study: Study, store: Store, device: torch.device, told: Callable[[str], None]) -> dict[str, Any]:
    """The figures of all rows, and notes on what could not be measured, as results.json holds them."""
    by_row: dict[tuple[str, float, str], list[tuple[Item, dict[str, Any]]]] = {}
    for item in items_of(study):
        rows = by_row.setdefault((item.model.name, item.area, item.method.name), [])
        if (record := store.record(item)) is not None:
            rows.append((item, record))
    notes: list[str] = []
    frequencies = _frequencies(study, store, by_row.values(), notes)
    distances, clip = _distances(study.metrics, device, notes), _clip(study.metrics, device, notes)
    found = []
    for (model, area, method), records in by_row.items():
        told(f"measuring {model}, {area:g}x, {method}")
        row: Row = {"model": model, "area": area, "method": method, **_counts(study, records)}
        made = [(item, record) for item, record in records if record["state"] == DONE]
        if made:
            row |= {**_costs(made), "settings": _settings(made)}
            row["repetition"] = frequencies(made)
            if distances is not None:
                row |= distances.of([store.picture(item) for item, _ in made], row["side"])
            row["clip"] = None if clip is None else clip(store, made)
        found.append(row)
    return {"title": study.title, "prompts": len(study.prompts), "seeds": list(study.seeds), "rows": found,
            "notes": notes + _mixed(by_row.values())}  # fmt: skip


def _counts(study: Study, records: Records) -> Row:
    states = [record["state"] for _, record in records]
    reasons = {state: sorted({r["reason"] for _, r in records if r["state"] == state}) for state in (SKIPPED, FAILED)}
    return {
        "pictures": states.count(DONE), "of": len(study.prompts) * len(study.seeds), "failed": states.count(FAILED),
        "skipped": next(iter(reasons[SKIPPED]), None), "failures": reasons[FAILED],
        "one_colour": sum(bool(record.get("one_colour")) for _, record in records),
    }  # fmt: skip


def _costs(made: Records) -> Row:
    records = [record for _, record in made]
    alike = ("class", "side", "trained", "dtype", "attached")
    return {
        **{name: records[0][name] for name in alike},
        "seconds_median": round(statistics.median(record["seconds"] for record in records), 3),
        "peak_bytes": max(record["peak_bytes"] for record in records),
        "peak_of": records[0]["peak_of"],
        "devices": sorted({record["device"] for record in records}),
        "versions": records[0]["versions"],
    }


def _settings(made: Records) -> Row:
    """What the pictures of a row depend on, but for prompt and seed."""
    return {name: value for name, value in made[0][1]["settings"].items() if name not in ("prompt", "seed")}


def _mixed(rows: Any) -> list[str]:
    """A note where the pictures were made by several versions or on several devices: they are not one measurement."""
    records = [record for row in rows for _, record in row if record["state"] == DONE]
    notes = []
    kinds = {"versions": lambda r: tuple(sorted(r["versions"].items())), "devices": lambda r: r["device"]}
    for name, key in kinds.items():
        if len(found := {key(record) for record in records}) > 1:
            notes.append(f"The pictures were made with {len(found)} different {name}; see the records.")
    return notes


def _frequencies(study: Study, store: Store, rows: Any, notes: list[str]) -> Callable[[Records], Row | None]:
    """The function that compares a row with the enlarged samples of the same model, size, prompts and seeds."""
    if not study.metrics.duplication:
        return lambda _made: None
    if not any(method.kind == "enlarged" for method in study.methods):
        notes.append("Repetition is not measured: it needs a method of kind enlarged to compare with.")
        return lambda _made: None
    samples: dict[tuple[str, float, str, int], float | None] = {}
    for row in rows:
        for item, record in row:
            if item.method.kind == "enlarged" and record["state"] == DONE:
                samples[_pair(item)] = mean_frequency(_opened(store.picture(item)))

    def compared(made: Records) -> Row | None:
        found = [mean_frequency(_opened(store.picture(item))) for item, _ in made]
        result = repetition(found, [samples.get(_pair(item)) for item, _ in made])
        return None if result is None else asdict(result)

    return compared


def _pair(item: Item) -> tuple[str, float, str, int]:
    return item.model.name, item.area, item.prompt, item.seed


def _distances(metrics: Metrics, device: torch.device, notes: list[str]) -> Distances | None:
    if metrics.references is None:
        notes.append("FID and KID are not measured: the study names no folder of real pictures (metrics: references).")
        return None
    try:
        return Distances(metrics, feature_network(metrics.features), device)
    except MissingNetworkError as error:
        notes.append(f"FID and KID are not measured: {error}")
        return None


def _clip(metrics: Metrics, device: torch.device, notes: list[str]) -> Callable[[Store, Records], float] | None:
    if metrics.clip is None:
        return None
    try:
        score = clip_score(metrics.clip).to(device)
    except MissingNetworkError as error:
        notes.append(f"The CLIP score is not measured: {error}")
        return None

    def scored(store: Store, made: Records) -> float:
        score.reset()
        for item, _ in made:
            with torch.no_grad():
                score.update([_tensor(_opened(store.picture(item))).to(device)], [item.prompt])
        return round(float(score.compute()), 4)

    return scored


class Distances:
    """FID and KID to the reference pictures, at each size; the features of the references are computed once a size.

    Parameters
    ----------
    metrics : of the study
    features : as torchmetrics takes them
    """

    def __init__(self, metrics: Metrics, features: Any, device: torch.device) -> None:
        assert metrics.references is not None
        self._metrics, self._features, self._device = metrics, features, device
        self._paths = reference_pictures(metrics.references)
        self._real: dict[int, dict[str, Any]] = defaultdict(dict)

    def of(self, paths: Sequence[Path], side: int) -> Row:
        """FID, KID (mean and deviation over subsets), and FID of cut-outs, of pictures of one size."""
        if len(paths) < 2:
            return {"fid": None, "kid_mean": None, "kid_std": None, "fid_crops": None}
        row: Row = {"fid": self._fid("whole", side, paths, lambda pictures: pictures), **self._kid(side, paths)}
        cuts = self._metrics.crops and self._metrics.crop_size <= side
        row["fid_crops"] = self._fid("crops", side, paths, lambda pictures: self._cut(pictures, side)) if cuts else None
        return row

    def _fid(self, name: str, side: int, paths: Sequence[Path], part: Callable[[Pictures], Pictures]) -> float:
        from torchmetrics.image.fid import FrechetInceptionDistance

        if name not in self._real[side]:
            metric = FrechetInceptionDistance(self._features, reset_real_features=False).to(self._device)
            self._update(metric, part(self._references(side)), real=True)
            self._real[side][name] = metric
        metric = self._real[side][name]
        metric.reset()  # the features of the references stay
        self._update(metric, part(map(_tensor, map(_opened, paths))), real=False)
        return round(max(0.0, float(metric.compute())), 4)

    def _kid(self, side: int, paths: Sequence[Path]) -> Row:
        from torchmetrics.image.kid import KernelInceptionDistance

        if "kid" not in self._real[side]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that all features are kept in memory
                metric = KernelInceptionDistance(
                    self._features, subsets=self._metrics.kid_subsets, reset_real_features=False
                ).to(self._device)
            self._update(metric, self._references(side), real=True)
            self._real[side]["kid"] = metric
        metric = self._real[side]["kid"]
        metric.reset()
        metric.subset_size = min(self._metrics.kid_subset_size, len(paths), len(self._paths))
        self._update(metric, map(_tensor, map(_opened, paths)), real=False)
        with torch.random.fork_rng(devices=[]):  # the subsets are drawn from torch's own generator
            torch.manual_seed(0)
            mean, deviation = metric.compute()
        return {
            "kid_mean": round(float(mean), 6), "kid_std": round(float(deviation), 6), "kid_subset": metric.subset_size,
        }  # fmt: skip

    def _update(self, metric: Any, pictures: Pictures, *, real: bool) -> None:
        with torch.no_grad():
            for picture in pictures:
                metric.update(picture[None].to(self._device), real=real)

    def _references(self, side: int) -> Pictures:
        """Each reference, cut to a square and resized to the size of the row."""
        for path in self._paths:
            yield _tensor(ImageOps.fit(_opened(path), (side, side), Image.Resampling.LANCZOS))

    def _cut(self, pictures: Pictures, side: int) -> Pictures:
        """Square cut-outs at random places, the same for every row."""
        places, size = np.random.default_rng(0), self._metrics.crop_size
        for picture in pictures:
            for _ in range(self._metrics.crops):
                top, left = places.integers(0, side - size + 1, 2)
                yield picture[:, top : top + size, left : left + size]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise StudyError(f"{shown_path(path)}: cannot be read as a picture ({type(error).__name__})") from None


def _tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
