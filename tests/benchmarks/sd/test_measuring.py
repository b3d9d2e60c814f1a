"""The figures are those of independent formulas, on pictures that are compared as the study says."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
transformers = pytest.importorskip("transformers")

from contact_sheets import GAP, LEFT, laid_out, write_sheets  # noqa: E402
from feature_networks import MissingNetworkError, clip_score, feature_network  # noqa: E402
from frechet import frechet_distance  # noqa: E402
from measuring import measured  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402
from study import Method, Metrics, Model, Study  # noqa: E402
from study_report import report_html  # noqa: E402
from work_items import DONE, SKIPPED, Store, items_of  # noqa: E402

from .conftest import Features, tokenizer  # noqa: E402

CPU = torch.device("cpu")
STUDY = Study(
    "T <b>", (Model("a", "source"),), (4.0,), tuple(f"prompt {chr(97 + n)}" for n in range(5)), (0, 1),
    (Method("enlarged", kind="enlarged"), Method("noisy"), Method("never", kind="peer", peer="hidiffusion")), tile=24,
)  # fmt: skip
ABOUT = {
    "class": "P", "side": 32, "trained": 16, "dtype": "float32", "device": "d", "versions": {"torch": "2"},
    "attached": "nothing", "peak_of": "process",
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """Pictures of two methods; the third was skipped."""
    made, random = Store(tmp_path / "out"), np.random.default_rng(1)
    for number, item in enumerate(items_of(STUDY)):
        if item.method.kind == "peer":
            made.keep(item, None, {"state": SKIPPED, "reason": "no <package>"})
            continue
        cells = 4 if item.method.name == "enlarged" else 32
        small = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        held = io.BytesIO()
        Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(held, "PNG")
        cost = {"seconds": 1.0 + number, "peak_bytes": 2**30 + number, "one_colour": False}
        made.keep(item, held.getvalue(), {"state": DONE, **ABOUT, **cost})
    return made


def rows(study, store):
    found = measured(study, store, CPU, lambda _text: None)
    return {row["method"]: row for row in found["rows"]}, found["notes"]


def features_of(pictures):
    torch.manual_seed(0)
    network = Features()
    with torch.no_grad():
        tensors = [torch.from_numpy(np.asarray(p).copy()).permute(2, 0, 1)[None] for p in pictures]
        return torch.cat([network(one) for one in tensors]).numpy().astype(np.float64)


def kernel_distance(x, y):
    """The unbiased squared MMD with the kernel (a b / d + 1)^3: KID of one subset that holds all."""
    k = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    own = sum((k(a, a).sum() - np.trace(k(a, a))) / (c * (c - 1)) for a, c in ((x, n), (y, m)))
    return own - 2 * k(x, y).mean()


def test_fid_and_kid_are_those_of_other_formulas_with_the_network_of_the_study(store, features, pictures):
    metrics = Metrics(references=pictures, features=str(features), kid_subsets=2, kid_subset_size=6, duplication=False)
    found, notes = rows(replace(STUDY, metrics=metrics), store)
    real = [
        ImageOps.fit(Image.open(path).convert("RGB"), (32, 32), Image.Resampling.LANCZOS)
        for path in sorted(pictures.glob("*.png"))
    ]
    for method in ("enlarged", "noisy"):
        items = [item for item in items_of(STUDY) if item.method.name == method]
        made = [Image.open(store.picture(item)) for item in items]
        expected = frechet_distance(features_of(real), features_of(made))
        assert found[method]["fid"] == pytest.approx(expected, abs=2e-4)
        assert found[method]["kid_subset"] == 6 and found[method]["fid_crops"] is None
    assert not notes and "fid" not in found["never"] and found["never"]["skipped"] == "no <package>"
    assert found["enlarged"]["fid"] != found["noisy"]["fid"]


def test_kid_of_one_subset_that_holds_all(store, features, pictures):
    few = replace(STUDY, prompts=STUDY.prompts[:3])  # six pictures, as many as there are references
    metrics = Metrics(references=pictures, features=str(features), kid_subsets=1, kid_subset_size=99)
    found, _ = rows(replace(few, metrics=metrics), store)
    real = features_of(
        ImageOps.fit(Image.open(path).convert("RGB"), (32, 32), Image.Resampling.LANCZOS)
        for path in sorted(pictures.glob("*.png"))
    )
    made = features_of(Image.open(store.picture(i)) for i in items_of(few) if i.method.name == "noisy")
    assert found["noisy"]["kid_subset"] == 6
    assert found["noisy"]["kid_mean"] == pytest.approx(kernel_distance(real, made), abs=2e-6)


def test_cut_outs_are_not_reduced_and_are_the_same_for_every_row(store, features, pictures):
    metrics = Metrics(references=pictures, features=str(features), kid_subsets=1, crops=3, crop_size=8)
    found, _ = rows(replace(STUDY, metrics=metrics), store)
    assert found["noisy"]["fid_crops"] > 0 and found["noisy"]["fid_crops"] != found["noisy"]["fid"]
    assert rows(replace(STUDY, metrics=metrics), store)[0]["noisy"]["fid_crops"] == found["noisy"]["fid_crops"]
    whole, _ = rows(replace(STUDY, metrics=replace(metrics, crops=1, crop_size=32)), store)
    assert whole["noisy"]["fid_crops"] == pytest.approx(whole["noisy"]["fid"], abs=1e-4)


def test_the_clip_score_is_the_mean_cosine(store, tmp_path):
    torch.manual_seed(4)
    text = {
        "vocab_size": 54, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 16, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53,
    }  # fmt: skip
    vision = {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config).eval()
    reader = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.CLIPProcessor(reader, tokenizer(tmp_path / "words"))
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    found, _ = rows(replace(STUDY, metrics=Metrics(clip=str(tmp_path / "clip"))), store)
    for method in ("enlarged", "noisy"):
        items = [item for item in items_of(STUDY) if item.method.name == method]
        read = processor(
            text=[i.prompt for i in items], images=[Image.open(store.picture(i)) for i in items], return_tensors="pt",
            padding=True,
        )  # fmt: skip
        with torch.no_grad():
            out = model(**read)
        expected = 100 * (out.image_embeds * out.text_embeds).sum(-1).mean()
        assert abs(expected) > 0.1
        assert found[method]["clip"] == pytest.approx(max(0.0, float(expected)), abs=1e-2)
    assert max(found[method]["clip"] for method in ("enlarged", "noisy")) > 0  # torchmetrics shows no negative score


def test_what_cannot_be_measured_is_a_note(store, tmp_path, pictures):
    found, notes = rows(replace(STUDY, metrics=Metrics(references=pictures, clip=str(tmp_path / "none"))), store)
    assert any("features: inception needs torch-fidelity" in note for note in notes)
    assert any("clip: " in note and "cannot be loaded" in note for note in notes)
    assert found["noisy"]["clip"] is None and "fid" not in found["noisy"]
    _, notes = rows(replace(STUDY, methods=STUDY.methods[1:]), store)
    assert any("needs a method of kind enlarged" in note for note in notes)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_a_file_that_is_no_feature_network(tmp_path, content):
    path = tmp_path / "features.pt"
    if content is None:
        torch.jit.script(torch.nn.Flatten(0)).save(str(path))
    else:
        path.write_bytes(content)
    with pytest.raises(MissingNetworkError, match=r"features\.pt: (is not|does not return)"):
        feature_network(str(path))
    with pytest.raises(MissingNetworkError, match="cannot be loaded"):
        clip_score(str(tmp_path))


def test_costs_and_repetition(store):
    found, notes = rows(STUDY, store)
    assert found["enlarged"]["repetition"]["ratio"] == 1 and found["noisy"]["repetition"]["ratio"] > 1.1
    assert found["noisy"]["peak_bytes"] == 2**30 + 19 and found["noisy"]["seconds_median"] == 15.5
    assert [note for note in notes if "FID and KID" in note]
    item = items_of(STUDY)[0]
    store.keep(item, None, {**store.record(item), "versions": {"torch": "3"}})
    assert any("2 different versions" in note for note in rows(STUDY, store)[1])


def test_a_sheet_is_methods_across_and_seeds_down(store):
    sheets = write_sheets(STUDY, store)
    assert [sheet.prompt for sheet in sheets] == list(STUDY.prompts)
    with Image.open(store.folder / sheets[0].path) as sheet:
        assert sheet.width == LEFT + 2 * (24 + GAP)


def test_tiles_lie_where_the_sheet_says_and_a_missing_picture_is_grey(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
    for name in colours:
        Image.new("RGB", (64, 64), name).save(tmp_path / f"{name}.png")
    paths = {name: tmp_path / f"{name}.png" for name in colours}
    columns = [("first", [paths["red"], paths["green"]]), ("second <b>", [None, paths["blue"]])]
    sheet = laid_out(columns, ["seed 0", "seed 1"], "a prompt \x1b[2J", 20)
    top = sheet.height - 2 * (20 + GAP)
    centres = [
        [sheet.getpixel((LEFT + i * (20 + GAP) + 10, top + j * (20 + GAP) + 10)) for i in range(2)] for j in range(2)
    ]
    assert centres == [[colours["red"], (221, 221, 221)], [colours["green"], colours["blue"]]]
    corners = [sheet.getpixel((LEFT + x, top + y)) for x, y in ((0, 0), (19, 19))]
    assert corners == [colours["red"]] * 2 and sheet.getpixel((LEFT + 20, top)) == (255, 255, 255)


def test_the_page_escapes_whatever_it_is_given(store):
    hostile = replace(STUDY, models=(replace(STUDY.models[0], name="<img src=x>\x1b"),))
    results = measured(hostile, store, CPU, lambda _text: None)
    page = report_html(results, [replace(one, prompt='"><script>') for one in write_sheets(hostile, store)])
    assert "<script" not in page and "<img src=x" not in page and "<package>" not in page and "\x1b" not in page
    assert "&lt;img src=x&gt;\\x1b" in page and "&#34;&gt;&lt;script&gt;" in page and "no &lt;package&gt;" in page
