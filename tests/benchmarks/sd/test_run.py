"""A study from its file to its report, by the real `accelerate launch` with two CPU processes."""

from __future__ import annotations

import json
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

from contact_sheets import GAP, LEFT
from PIL import Image
from study_file import read_study
from work_items import Store, items_of

from .conftest import PROMPTS, accelerate, environment, run

pytestmark = pytest.mark.slow

METHODS = """
  - {name: untouched}
  - {name: enlarged, kind: enlarged}
  - {name: guided cascade, kind: cascade, guidance: true}
  - {name: guidance and optimal kernels, guidance: true, kernels: {method: optimal}}
  - {name: interpolated positions, positions: {method: interpolate}}
  - {name: img2img of diffusers, kind: peer, peer: img2img}
  - {name: MultiDiffusion, kind: peer, peer: multidiffusion}
  - {name: HiDiffusion, kind: peer, peer: hidiffusion}
"""
MADE = {  # by network: what is skipped is not made
    "unet": ["untouched", "enlarged", "guided cascade", "guidance and optimal kernels", "img2img of diffusers"],
    "transformer": ["untouched", "enlarged", "guided cascade", "interpolated positions", "img2img of diffusers"],
}


def study(folder: Path, folders, features: Path, pictures: Path, *, steps: int = 3) -> Path:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    text = f"""
title: Random weights
models:
  - {{name: sd, source: {folders["sd"]}, steps: {steps}, multiple: 8}}
  - {{name: sdxl, source: {folders["sdxl"]}, steps: 3, multiple: 8, negative_prompt: a bird}}
  - {{name: sd3, source: {folders["sd3"]}, steps: 3, multiple: 8, without: [text_encoder_3, tokenizer_3],
      call: {{max_sequence_length: 16}}}}
  - {{name: flux, source: {folders["flux"]}, steps: 3, multiple: 8, trained: 16, cfg: 3.5,
      call: {{max_sequence_length: 16}}}}
areas: [4]
prompts: prompts.txt
seeds: [0]
methods: {METHODS}
metrics: {{references: {pictures}, features: {features}, kid_subsets: 3, kid_subset_size: 2}}
tile: 40
"""
    path = folder / "study.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folders, features, pictures):
    """A run to the end that nobody interrupts: its study, and its folder."""
    base = tmp_path_factory.mktemp("whole")
    path = study(base, folders, features, pictures)
    done = run(path, "--out", base / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[process 2/2] 64 of 64 pictures to make, 32 by this process" in done.stderr
    return path, base / "out"


def made_pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "pictures").glob("*.png")}


def test_every_method_runs_on_every_class_or_says_why_not(whole):
    _, out = whole
    results = json.loads((out / "results.json").read_text())
    rows = {(row["model"], row["method"]): row for row in results["rows"]}
    assert len(rows) == 4 * 8 and not any(row["failed"] for row in rows.values())
    classes = {
        "sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline",
        "flux": "FluxPipeline",
    }  # fmt: skip
    for model, name in classes.items():
        expected = [*MADE["unet" if model in ("sd", "sdxl") else "transformer"], *["MultiDiffusion"] * (model == "sd")]
        found = [method for (other, method), row in rows.items() if other == model and row["pictures"]]
        assert sorted(found) == sorted(expected)
        assert {rows[model, method]["class"] for method in found} == {name}
        assert {(rows[model, method]["trained"], rows[model, method]["side"]) for method in found} == {(16, 32)}
        assert {rows[model, method]["pictures"] for method in found} == {2}
        assert rows[model, "enlarged"]["repetition"]["ratio"] == 1
    for row in rows.values():
        assert bool(row["skipped"]) == (row["pictures"] == 0)
        assert row["pictures"] == 0 or (row["fid"] >= 0 and row["seconds_median"] > 0 and row["peak_bytes"] > 0)
    assert "hidiffusion cannot be imported: No module named 'hidiffusion'" in rows["sd", "HiDiffusion"]["skipped"]
    assert rows["sdxl", "MultiDiffusion"]["skipped"].endswith("this is StableDiffusionXLPipeline")
    assert not results["notes"]
    assert len(made_pictures(out)) == 2 * (6 + 5 + 5 + 5)


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_report_has_every_row_and_every_sheet_and_prompts_are_text(whole):
    path, out = whole
    page = Page((out / "report.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(PROMPTS[1]) == 4
    for method in read_study(path).methods:
        assert page.text.count(method.name) >= 4, method.name
    assert page.text.count("cannot be imported: No module named 'hidiffusion'") == 4
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(shown) == 4 * len(PROMPTS) and all((out / src).is_file() for src in shown)
    for src in shown:
        columns = 6 if "model1-" in src else 5
        with Image.open(out / src) as sheet:
            assert sheet.width == LEFT + columns * (40 + GAP)


def test_a_killed_run_goes_on_to_the_same_pictures_and_makes_none_twice(whole, tmp_path):
    import psutil  # accelerate needs it

    path, out = whole
    begun = subprocess.Popen(
        accelerate(path, "--out", tmp_path / "out"), env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    store, items = Store(tmp_path / "out"), items_of(read_study(path))
    until = time.monotonic() + 300
    while sum(record["state"] == "done" for _, record in store.recorded(items)) < 8:
        assert begun.poll() is None and time.monotonic() < until, "the run ended, or made nothing"
        time.sleep(0.05)
    launcher = psutil.Process(begun.pid)
    workers = launcher.children(recursive=True)  # each leads a session of its own, and would outlive the launcher
    assert len(workers) >= 2
    for process in (*workers, launcher):
        process.kill()
    begun.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]
    kept = {
        store.picture(item).name: store.picture(item).stat().st_mtime_ns
        for item, record in store.recorded(items)
        if record["state"] == "done"
    }
    assert 8 <= len(kept) < 42 and not (tmp_path / "out" / "results.json").exists()
    done = run(path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    assert made_pictures(tmp_path / "out") == made_pictures(out)
    after = {name: (tmp_path / "out" / "pictures" / name).stat().st_mtime_ns for name in kept}
    assert after == kept
    figures, other = (json.loads((folder / "results.json").read_text()) for folder in (out, tmp_path / "out"))
    for row, same in zip(figures["rows"], other["rows"], strict=True):
        assert [row.get(name) for name in ("fid", "kid_mean", "repetition", "skipped")] == [
            same.get(name) for name in ("fid", "kid_mean", "repetition", "skipped")
        ]


def test_other_settings_make_other_pictures_and_the_rest_stays(whole, folders, features, pictures, tmp_path):
    _, out = whole
    changed = study(tmp_path, folders, features, pictures, steps=4)
    listed = run(changed, "--out", out, "--list", processes=0)
    assert listed.stdout.strip() == "64 pictures, 16 to make"  # those of the model with another number of steps


def test_a_report_of_what_is_there(whole, tmp_path):
    path, out = whole
    before = made_pictures(out)
    (out / "report.html").unlink()
    done = run(path, "--out", out, "--report-only", processes=0)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == str(out / "report.html") and (out / "report.html").is_file()
    assert made_pictures(out) == before
    empty = run(path, "--out", tmp_path / "empty", "--report-only", processes=0)
    assert empty.returncode == 0, empty.stderr[-3000:]
    assert "No picture was made." in (tmp_path / "empty" / "report.html").read_text()


def test_a_model_that_cannot_be_loaded_fails_alone(folders, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat")
    (tmp_path / "study.yaml").write_text(
        "title: T\nprompts: prompts.txt\nareas: [4]\nseeds: [0]\n"
        "methods: [{name: untouched}, {name: b, kind: enlarged}]\nmodels:\n"
        f"  - {{name: none, source: {tmp_path / 'nothing'}}}\n"
        f"  - {{name: sd, source: {folders['sd']}, steps: 2, multiple: 8}}\n"
    )
    done = run(tmp_path / "study.yaml", "--out", tmp_path / "out", processes=0)
    assert done.returncode == 1 and "2 pictures failed" in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("[process 1/1] ")]
    assert [line.removeprefix("[process 1/1] ")[:22] for line in told] == [
        "4 of 4 pictures to mak", "2/4: none cannot be lo", "3/4: sd, 4x, untouched", "4/4: sd, 4x, b, prompt"
    ]  # fmt: skip
    rows = {row["model"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert (rows["none"]["failed"], rows["none"]["pictures"], rows["sd"]["pictures"]) == (1, 0, 1)
    assert str(tmp_path / "nothing") in (tmp_path / "out" / "report.html").read_text()
    listed = run(tmp_path / "study.yaml", "--out", tmp_path / "out", "--list", processes=0)
    assert listed.stdout.strip() == "4 pictures, 2 to make"  # what failed is tried again


def test_a_mistake_in_the_study_is_one_line(tmp_path):
    (tmp_path / "study.yaml").write_text("titel: T\n")
    done = run(tmp_path / "study.yaml", "--out", tmp_path / "out", processes=0)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no key titel; did you mean title" in done.stderr
    assert not (tmp_path / "out").exists()
