"""Write the tables of README.md and docs/ out of the result files of this folder.

    python benchmarks/real/tables.py

Rewrites what stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`. tests/benchmarks/test_real_tables.py
compares the pages with the result files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(Path(__file__).resolve().parents[1]))

from marked_tables import markdown, rewrite  # noqa: E402 - beside this folder

PAGES = (ROOT / "README.md", ROOT / "docs" / "measured.md", ROOT / "docs" / "training-small.md")
NETWORKS = {"MLP": "MLP", "CNN": "strided CNN", "VGG": "VGG-like", "ResNet": "ResNet", "ViT": "ViT"}
CLASSIFIED = {  # rows of the first table of docs/measured.md: the row in results/fashion.json, and its name on the page
    "trained size": "at the trained size, 14x14",
    "untouched": "untouched, at 28x28",
    "picture reduced by area, enlarged bilinearly": "picture reduced to 14x14",
    "default": "**rescaled, default**",
    "absorb, linear": "absorbed, read by `linear`",
    "absorb, cubic": "absorbed, read by `cubic`",
    "absorb, optimal": "absorbed, read by `optimal`",
    "supersample, dilate behind area": "supersampled, `dilate` read by `area`",
    "supersample, optimal": "supersampled, `optimal`",
    "supersample, cubic": "supersampled, `cubic`",
    "supersample, linear": "supersampled, `linear`",
    "trained at the new size": "trained at 28x28",
}
EFFICIENTNET = {
    "untouched, 448 pixels": "untouched",
    "default": "**rescaled, default**",
    "absorb, read by linear": "absorbed, read by `linear`",
    "absorb, read by cubic": "absorbed, read by `cubic`",
    "absorb, read by optimal": "absorbed, read by `optimal`",
    "supersample, dilate, read by area": "supersampled, `dilate` read by `area`",
    "supersample, dilate": "supersampled, `dilate`",
    "supersample, optimal": "supersampled, `optimal`",
    "reduced by bicubic, antialiased": "another reduction: bicubic, antialiased",
    "moved by 1 of 448 pixels, 2x2 average": "the picture moved by one pixel, then reduced",
}

Row = dict[str, Any]


def main() -> None:
    """Rewrite the tables of every page."""
    rewrite(PAGES, tables())


def tables() -> dict[str, str]:
    """Every table by name, of the result files that are there."""
    makers = {
        "fashion": (fashion, "fashion.json"),
        "fashion-worst": (fashion_worst, "fashion.json"),
        "efficientnet": (efficientnet, "efficientnet.json"),
        "segmentation": (segmentation, "segmentation.json"),
        "training": (training, "training.json"),
    }
    made = {name: make(_results(HERE, file)) for name, (make, file) in makers.items()}
    made["headline"] = headline(
        _results(HERE, "fashion.json"),
        _results(HERE, "efficientnet.json"),
        _results(HERE, "segmentation.json"),
        _results(HERE.parent / "diffusion", "cascades.json"),
    )
    return made


def _results(folder: Path, file: str) -> Row:
    found: Row = json.loads((folder / "results" / file).read_text())
    return found


def headline(classified: Row, large: Row, segmented: Row, sampled: Row) -> str:
    """The first table of the README: what the untouched and the rescaled networks do at twice their size."""
    cnn = {r["row"]: r for r in classified["summary"] if (r["old"], r["new"], r["network"]) == (14, 28, "CNN")}
    eff = {r["row"]: r for r in large["rows"]}
    seg = _means(segmented)
    digits = sampled["glyphs 32 decisive"]["rows"]
    rows = [
        ["EfficientNet-Lite0 (ImageNet) at 448x448: same first answer as on the picture reduced by hand",
         *(f"{100 * eff[name]['agreement']:.1f} %" for name in ("untouched, 448 pixels", "default"))],
        ["strided CNN, trained on Fashion-MNIST at 14x14, tested at 28x28: accuracy",
         *(f"{cnn[name]['accuracy']:.1f} %" for name in ("untouched", "default"))],
        ["U-Net, trained on scenes of 48x48, tested at 96x96: mean IoU",
         *(f"{100 * seg[name]:.1f} %" for name in ("untouched", "default"))],
        ["diffusion model of 16x16, guided cascade to 32x32: samples that show exactly one digit, of 1,000",
         *(f"{100 * digits[name]['one_object'][0]:.1f} %" for name in ("untouched", "cascade 0.4, guidance 1.5"))],
    ]  # fmt: skip
    return markdown(["at twice the trained size", "as trained", "with rekernel"], rows)


def fashion(results: Row) -> str:
    """Accuracy and macro F1 of five classifiers, trained at 14x14 and tested at 28x28."""
    held = {(r["row"], r["network"]): r for r in results["summary"] if (r["old"], r["new"]) == (14, 28)}
    rows = [[shown, *(_scores(held.get((name, n))) for n in NETWORKS)] for name, shown in CLASSIFIED.items()]
    return markdown(["accuracy / macro F1, %", *NETWORKS.values()], rows)


def _scores(row: Row | None) -> str:
    return f"{row['accuracy']:.1f} / {row['f1']:.1f}" if row and "accuracy" in row else "-"


def fashion_worst(results: Row) -> str:
    """How far the default falls at most, by change of size."""
    rows = []
    for r in results["worst"]:
        drops = [f"{r[score]:+.2f} ({NETWORKS[r[f'{score}_of']]})" for score in ("accuracy", "f1")]
        rows.append([f"{r['old']} to {r['new']}", r["below"], *drops])
    return markdown(["change of size", "rival", "rival minus default: accuracy, points", "macro F1, points"], rows)


def efficientnet(results: Row) -> str:
    """Agreement with the network's own answer on the 2x2 average."""
    held = {r["row"]: r for r in results["rows"]}
    rows = [
        [shown, f"{100 * held[name]['agreement']:.1f} %", f"{held[name]['kl']:.4f}"]
        for name, shown in EFFICIENTNET.items()
        if name in held
    ]
    return markdown(["EfficientNet-Lite0 at 448x448", "same first answer", "KL divergence"], rows)


def segmentation(results: Row) -> str:
    """Mean IoU over sets of scenes and seeds, of every row that all sets and seeds have."""
    rows = [[name, f"{100 * mean:.1f}"] for name, mean in _means(results).items()]
    return markdown(["U-Net trained at 48x48, scenes of 96x96", "mean IoU, %"], rows)


def _means(results: Row) -> dict[str, float]:
    """The mean over sets of scenes and seeds, of every row that all of them have."""
    found: dict[str, list[float]] = {}
    for row in results["rows"]:
        found.setdefault(row["row"], []).append(row["iou"])
    most = max(map(len, found.values()))
    return {name: sum(values) / most for name, values in found.items() if len(values) == most}


def training(results: Row) -> str:
    """Accuracy against steps, time and memory."""
    columns = results["columns"]
    return markdown(columns, [[str(row[c]) for c in columns] for row in results["table"]])


if __name__ == "__main__":
    main()
