"""Write the model card of a rescaled model: its origin, how it was made, how to load it, and its limits.

Scope: text of the card; every name from a file is escaped. Not here: lines of code (see `hub.loading_code`), the upload
(see `hub.upload`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RekernelError
from ..escape import shown, shown_markdown
from ..plan.changes import LayerChange
from ..plan.description import described, geometry_text, scale_words
from ..plan.recipe import Recipe
from ..sources.hub_client import hub
from ..text import dims, scale_text
from ..version import __version__
from .contents import Payload
from .licence import Terms
from .loading_code import library_of, snippet
from .sampling_facts import facts_of_record, what_is_recorded

RELATION = "merge"
"""Relation to the base model. The Hub knows adapter, merge, quantized and finetune. Of these only a merge is made by
arithmetic on weights without training, as a rescaled model is."""

_GEOMETRIES = 12
_SOURCES = 8


@dataclass(frozen=True)
class Story:
    """The facts for a card that are not in the recipe.

    base : repository of the source, or empty
    commit : commit of the source, or empty
    terms : licence and task of the source
    verified : output of `rekernel verify --json`, or empty
    figure : file name of a picture in the repository, or empty
    """

    base: str = ""
    commit: str = ""
    terms: Terms = field(default_factory=Terms)
    verified: Mapping[str, Any] = field(default_factory=dict)
    figure: str = ""


def model_card(load: Payload, repo: str, story: Story) -> str:
    """Return the text of README.md, with its front matter.

    Parameters
    ----------
    load : Payload
    repo : str
        Repository that the card is for.
    story : Story
    """
    client = hub()
    data = client.ModelCardData(
        base_model=story.base or None,
        base_model_relation=RELATION if story.base else None,
        library_name=library_of(load),
        license=story.terms.license or None,
        license_name=story.terms.name or None,
        license_link=_license_link(load, story) or None,
        pipeline_tag=story.terms.pipeline_tag or None,
        tags=list(dict.fromkeys(["rekernel", *story.terms.tags])),
    )
    sections = [
        _head(load, repo, story),
        f"## Load\n\n```python\n{snippet(load, repo)}```\n\nWith {_needed(load)} and huggingface_hub.",
        "## How it was made\n\n" + _made(load, story),
        _measured(story.verified),
        f"## Figure\n\n![How the rescaled model behaves]({story.figure})" if story.figure else "",
        "## Limits\n\n" + _limits(load, bool(story.verified)),
        f"## Licence\n\n{_licence(story)}",
    ]
    text = "\n\n".join(section for section in sections if section)
    return str(client.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def summary(load: Payload, base: str) -> str:
    """Describe the conversion in one line, for a commit message.

    Names are escaped, and a long line is cut.
    """
    said = []
    for component, recipe in load.recipes.items():
        asked = described(recipe.plan)
        how = shown(asked.get("method", ""), 60)
        how += f", gain {shown(asked['gain'], 60)}" if "gain" in asked else ""
        count = len(recipe.plan.changed)
        how += f"{', ' if how else ''}{count} tensor{'' if count == 1 else 's'}"
        said.append(f"{component + ' ' if component else ''}by {asked['scale']} ({how})")
    if not said:
        said = [f"{what_is_recorded(found)}, at {scale_text(found.scale)}x" for found in load.recorded.values()]
        return shown(f"Record {'; '.join(said)}{', for ' + base if base else ''}", 200)
    return shown(f"Rescale {base + ' ' if base else ''}{'; '.join(said)}", 200)


def checked_verification(document: object) -> dict[str, Any]:
    """Check the output of `rekernel verify --json`, and return the parts that a card shows.

    Raises
    ------
    RekernelError
        If `document` is not such output.

    Examples
    --------
    >>> checked_verification({"size": [16, 16], "new_size": [32, 32], "error": 0.1, "untouched_error": None})["error"]
    0.1
    """
    try:
        assert isinstance(document, dict)
        sizes = {key: [int(n) for n in document[key]] for key in ("size", "new_size")}
        numbers: dict[str, float | None] = {"error": float(document["error"])}
        untouched = document.get("untouched_error")
        numbers["untouched_error"] = None if untouched is None else float(untouched)
        scores = {
            name: {key: float(document["scores"][name][key]) for key in ("accuracy", "f1")}
            for name in ("original", "converted") if name in document.get("scores", {})
        }  # fmt: skip
        if not all(math.isfinite(number) for number in numbers.values() if number is not None):
            raise ValueError
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
        raise RekernelError("the measurement is not the output of `rekernel verify --json`") from None
    return {**sizes, **numbers, "scores": scores}


def _head(load: Payload, repo: str, story: Story) -> str:
    scales = ", ".join(dict.fromkeys(scale_words(recipe.plan.scale) for recipe in load.recipes.values()))
    families = [shown_markdown(r.plan.family, 60) for r in load.recipes.values() if r.plan.family]
    of = f"[{story.base}](https://huggingface.co/{story.base})" if story.base else "A model"
    kind = f" ({', '.join(dict.fromkeys(families))})" if families else ""
    if not load.recipes:
        [found, *_] = load.recorded.values()
        return (
            f"# {repo.rpartition('/')[2]}\n\n{of}, to be sampled at {scale_text(found.scale)} times its trained size: "
            f"its folder records {what_is_recorded(found)}. Nothing was trained, and the weights are those of the "
            "source."
        )
    if all(recipe.plan.resamples for recipe in load.recipes.values()):
        return (
            f"# {repo.rpartition('/')[2]}\n\n{of}{kind} for images {scales} times as large as those it was trained on. "
            "No layer of it can absorb this scale, so its weights are those of the source, and rekernel resamples the "
            "image to the trained size in front of it."
        )
    return (
        f"# {repo.rpartition('/')[2]}\n\n{of}{kind} with its weights rescaled by {scales}, so that it can run on "
        f"images {scales} times as large as those it was trained on. Nothing was trained: kernels (and weights that "
        "read a pixel grid) were resampled, their gain and their place on the grid kept."
    )


def _made(load: Payload, story: Story) -> str:
    rows = [("base model", f"[{story.base}](https://huggingface.co/{story.base}/tree/{story.commit or 'main'})")]
    rows = rows if story.base else []
    rows += [("revision", f"`{story.commit}`")] if story.commit else []
    for component, recipe in load.recipes.items():
        of = f"{shown_markdown(component)}: " if component else ""
        rows += [(of + name, value) for name, value in _facts(recipe)]
    for component, found in load.recorded.items():
        rows += [(f"{shown_markdown(component)}: {name}", value) for name, value in facts_of_record(found)]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    layers = _geometries([change for recipe in load.recipes.values() for change in recipe.plan.changed])
    if not load.recipes:
        return f"{table}\n\nWhat is recorded is the entry `_rekernel` of the denoiser's `config.json`."
    text = "The plan of every tensor, exact to the matrix, is in the files' metadata: `rekernel inspect FILE --json`."
    return f"{table}\n\n{layers}{text}"


def _facts(recipe: Recipe) -> list[tuple[str, str]]:
    facts = [
        (label, shown_markdown(text, 200 if label == "selection" else 60))
        for label, text in described(recipe.plan).items()
    ]
    facts += [("tensors rescaled", f"{len(recipe.plan.changed):,}")]
    facts += [("cast to", shown_markdown(recipe.dtype, 20))] if recipe.dtype else []
    for source in recipe.sources[:_SOURCES]:
        where = f"{shown_markdown(source.path, 200)}, " if source.path else ""
        digest = source.sha256 if source.sha256.isalnum() else shown_markdown(source.sha256, 80)
        facts.append(("source file", f"{where}{source.nbytes:,} bytes, SHA-256 `{digest}`"))
    if recipe.sources[_SOURCES:]:
        facts.append(("", f"and {len(recipe.sources) - _SOURCES} more"))
    return [*facts, ("made by", shown_markdown(recipe.tool, 80))]


def _geometries(changes: Sequence[LayerChange]) -> str:
    counts = Counter(
        (geometry_text(change.geometry), geometry_text(change.new_geometry))
        for change in changes if change.geometry and change.new_geometry
    )  # fmt: skip
    if not counts:
        return ""
    rows = [f"| {n} | {old} | {new} |" for (old, new), n in counts.most_common(_GEOMETRIES)]
    more = counts.total() - sum(n for _, n in counts.most_common(_GEOMETRIES))
    rows += [f"| {more} | other | |"] if more else []
    return "\n".join(["| layers | before | after |", "|---|---|---|", *rows]) + "\n\n"


def _measured(verified: Mapping[str, Any]) -> str:
    if not verified:
        return ""
    small, large = (dims(verified[key]) for key in ("size", "new_size"))
    lines = [
        f"Relative error of the answer at {large}, reduced to {small}, against the original's at {small}: "
        f"{verified['error']:.4f}."
    ]
    if verified["untouched_error"] is not None:
        lines.append(f"The untouched network at {large}: {verified['untouched_error']:.4f}.")
    for name, score in verified["scores"].items():
        at = small if name == "original" else large
        lines.append(f"The {name} network at {at}: accuracy {score['accuracy']:.1f}, macro F1 {score['f1']:.1f}.")
    return "## Measured\n\n" + "\n".join(lines) + "\n\nBy `rekernel verify`."


def _limits(load: Payload, verified: bool) -> str:
    trained = (
        "- Not trained, and not fine-tuned: what the original cannot do at its own size this one cannot do either."
    )
    if not load.recipes:
        return (
            f"{trained}\n- diffusers alone loads it too: at the trained size, and without what is recorded.\n- Nothing "
            "was measured on this model: compare its pictures with those of the original at its own size."
        )
    said = [
        trained,
        "- It is made for the larger images; at the trained size use the original.",
    ]
    if all(recipe.plan.resamples for recipe in load.recipes.values()):
        said.append("- Any other loader than rekernel's needs images of the trained size.")
    elif library_of(load) == "rekernel":
        said.append(
            "- Kernels, strides and padding differ from the architecture's own, so that its usual loader refuses the "
            "weights; rekernel's brings both in."
        )
    if load.pipeline and not any(found.guidance is not None for found in load.recorded.values()):
        said.append(
            "- A noise predictor is trained for the noise of one size; sample with upsample guidance, or expect "
            "artefacts that no interpolation removes."
        )
    if verified:
        said.append("- The numbers above hold for the input they were measured on. Measure on yours.")
    elif load.onnx:
        said.append("- Nothing was measured on this model: compare its answers with the original's, on your images.")
    else:
        said.append(
            "- Nothing was measured on this model: `rekernel verify` compares it with the original, layer by layer."
        )
    return "\n".join(said)


def _licence(story: Story) -> str:
    called = story.terms.name or story.terms.license
    if not called:
        return "The source does not say its licence."
    return f"As the source: {shown_markdown(called)}. Conditions of the source go with it."


def _license_link(load: Payload, story: Story) -> str:
    """Return the link to the licence. A file of the source that is not uploaded becomes an address."""
    link = story.terms.link
    if not link or link in load.files or link.startswith("http") or not story.base:
        return link
    return f"https://huggingface.co/{story.base}/blob/{story.commit or 'main'}/{link}"


def _needed(load: Payload) -> str:
    """Name the packages that loading needs, beside huggingface_hub."""
    return "onnxruntime" if load.onnx else _tool(load)


def _tool(load: Payload) -> str:
    tools = dict.fromkeys(shown_markdown(recipe.tool, 80) for recipe in load.recipes.values() if recipe.tool)
    return " and ".join(tools) or f"rekernel {__version__}"
