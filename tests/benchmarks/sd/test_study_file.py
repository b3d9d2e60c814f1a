"""The study is read strictly: a mistake is told in one line that names the file, the place and what to do."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import study_file
from study import PEERS, Method, Metrics, Model, Study, StudyError
from work_items import items_of

SHIPPED = Path(study_file.__file__).parent / "study.yaml"
GOOD = """
title: T
models:
  - {name: a, source: somewhere}
areas: [2, 4]
prompts: prompts.txt
seeds: [0, 1]
methods:
  - {name: untouched}
  - {name: guided, guidance: {theta: 1.5}}
"""


def read(folder, text):
    (folder / "prompts.txt").write_text("# a comment\na cat\n\n  a dog \na cat\n")
    (folder / "study.yaml").write_text(text)
    return study_file.read_study(folder / "study.yaml")


def test_the_study_that_is_shipped():
    found = study_file.read_study(SHIPPED)
    assert len(found.prompts) == 50 and found.areas == (2.0, 4.0) and len(found.models) == 4
    assert {method.peer for method in found.methods} - {None} == set(PEERS)
    levers = {name for method in found.methods for name in study_file.LEVERS if getattr(method, name)}
    assert levers == set(study_file.LEVERS)


def test_the_small_study_has_ten_pictures_and_only_keys_of_the_readme():
    found = study_file.read_study(SHIPPED.with_name("small.yaml"))
    assert len(items_of(found)) == 10
    assert set(found.prompts) <= set(study_file.read_study(SHIPPED).prompts)


def test_the_readme_lists_every_key_with_its_default():
    """A default in words, such as that of a key which the pipeline's config answers, is null, empty or none there."""
    text = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    text = text.partition("## The keys of a study")[2].partition("## The methods")[0]
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]
    for kind, table in zip((Study, Model, Method, Metrics), tables, strict=True):
        told = {
            name.strip("`"): default
            for names, defaults, _ in table
            for name, default in zip(names.split(", "), defaults.split(", ") * 3, strict=False)
        }
        assert told.keys() == {f.name for f in fields(kind)}
        for f in fields(kind):
            if f.default is MISSING:
                assert told[f.name] == "required" or f.default_factory is not MISSING
            elif f.default not in (None, ""):
                assert told[f.name] == (str(f.default).lower() if isinstance(f.default, bool) else str(f.default))


def test_what_is_left_out_has_its_default_and_prompts_are_lines(tmp_path):
    found = read(tmp_path, GOOD)
    assert found.prompts == ("a cat", "a dog")
    assert found.models[0].steps == 30 and found.methods[0].guidance is None and found.metrics.duplication is True
    assert found.methods[1].guidance == {"theta": 1.5}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds: [0, 1]", "seeds: [0, 1]\nseed: 2", "no key seed; did you mean seeds"),
        ("source: somewhere", "source: s, step: 3", "models: number 1: no key step; did you mean steps"),
        ("{theta: 1.5}", "{thetta: 1.5}", "method guided: guidance: no option thetta; there are theta, eta"),
        ("{theta: 1.5}", "{theta: 99}", "method guided: theta=99"),
        ("name: guided,", "name: untouched,", "methods: the name untouched stands twice"),
        ("title: T", "title: T\ntitle: U", "line 3: the key 'title' stands twice"),
        ("title: T", "title: [", "line"),
        ("title: T", "", "title is missing"),
        ("source: somewhere", "source: s, steps: '3'", "steps: '3' is not a whole number"),
        ("source: somewhere", "source: s, steps: true", "steps: True is not a whole number"),
        ("source: somewhere", "source: s, dtype: bfloat", "dtype: 'bfloat' is not one of float32"),
        ("source: somewhere", "source: s, call: {height: 2}", "call: height is set by the study itself"),
        ("{name: untouched}", "{name: u, kind: cascad}", "kind: 'cascad' is not one of"),
        ("{name: untouched}", "{name: u, kind: peer, peer: hidifusion}", "did you mean hidiffusion"),
        ("{name: untouched}", "{name: u, kind: peer, peer: img2img, options: {strenght: 1}}", "did you mean strength"),
        ("{name: untouched}", "{name: u, kind: peer, peer: img2img, options: {strength: x}}", "'x' is not a number"),
        ("{name: untouched}", "{name: u, options: {strength: 1}}", "options are those of a peer"),
        ("{name: untouched}", "{name: u, peer: hidiffusion}", "a method of kind peer names a peer"),
        ("{name: untouched}", "{name: u, kind: enlarged, guidance: true}", "guidance: a method of kind enlarged"),
        ("{name: untouched}", "{name: u, kind: cascade, strength: 1.5}", "strength: 1.5 must be above 0"),
        ("{name: untouched}", "{name: u, kernels: {method: cubik}}", "method u: "),
        ("areas: [2, 4]", "areas: [1]", "areas: 1.0 must be above 1"),
        ("areas: [2, 4]", "areas: 2", "areas: 2 is not a list of numbers"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds: [0, 0] names one twice"),
        ("prompts: prompts.txt", "prompts: nothing.txt", "nothing.txt"),
        ("prompts: prompts.txt", "prompts: study.yaml\nmetrics: {references: nowhere}", "folder with at least two"),
        ("prompts: prompts.txt", "prompts: study.yaml\nmetrics: {features: no.pt}", "no.pt is not a file"),
        ("prompts: prompts.txt", "prompts: study.yaml\nmetrics: {fid: true}", "metrics: no key fid"),
        ("title: T", "\x1b[2J: 3", "study.yaml: "),
        ("title: T", "? [a, b]\n: 1", "line 2: a key is a list or a mapping"),
        ("title: T", "? {a: b}\n: 1", "line 2: a key is a list or a mapping"),
        ("title: T", "title: !!int abc", "study.yaml: "),
        ("title: T", "title: !!bool abc", "study.yaml: "),
        ("title: T", f"title: {'1' * 5000}", "study.yaml: "),
        ("title: T", 'title: "\\ud800"', "title: this text holds NUL, or one half of a character"),
        ("source: somewhere", "source: s, call: {x: .nan}", "call: x: nan is not a finite number"),
        ("source: somewhere", "source: s, call: {x: [-.inf]}", "call: x: number 1: -inf is not a finite number"),
        ("source: somewhere", "source: s, call: {x: 2020-01-01}", "call: x: datetime.date(2020, 1, 1) is not a text"),
        ("source: somewhere", "source: s, call: {2020-01-01: x}", "the key datetime.date(2020, 1, 1)"),
        (
            "source: somewhere",
            "source: s, call: {x: !!binary MQ==}",
            "call: x: b'1' is not a text, a number",
        ),
        ("source: somewhere", "source: s, call: {x: !!set {a, b}}", " is not a text, a number, a list or a mapping"),
        ("source: somewhere", "source: s, call: &a {x: *a}", "recursive node"),
        ("title: T", f"title: {'[' * 3000}", "study.yaml: "),
        ("prompts: prompts.txt", 'prompts: "a\\0b"', "prompts: this text holds NUL"),
        ("areas: [2, 4]", f"areas: [1{'0' * 400}]", "is not a list of numbers"),
        ("areas: [2, 4]", "areas: [2, 2.0000001]", "alike to six digits"),
        ("title: T", f"title: T\ntile: 1{'0' * 30}", "must be at least 16 and at most 4096"),
        ("source: somewhere", "source: s, steps: 0", "steps: 0 must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(tmp_path, old, new, said):
    assert old in GOOD
    with pytest.raises(StudyError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    text = str(caught.value)
    assert said in text and "study.yaml" in text
    assert text.isprintable()


def test_a_study_is_a_mapping_in_utf8(tmp_path):
    with pytest.raises(StudyError, match="holds a list"):
        read(tmp_path, "[1]")
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match=r"study\.yaml"):
        study_file.read_study(tmp_path / "study.yaml")
    with pytest.raises(StudyError, match="No such file"):
        study_file.read_study(tmp_path / "nothing.yaml")


def test_strengths_may_be_several(tmp_path):
    found = read(tmp_path, GOOD.replace("{name: untouched}", "{name: u, kind: cascade, strength: [0.5, 0.3]}"))
    assert found.methods[0].strength == [0.5, 0.3]
