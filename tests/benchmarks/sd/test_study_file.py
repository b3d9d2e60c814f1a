"""The study is read strictly: a mistake is told in one line that names the file, the place and what to do."""

from pathlib import Path

import pytest
import study_file
from study import PEERS, StudyError

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
