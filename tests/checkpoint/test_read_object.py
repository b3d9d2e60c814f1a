"""The one reader of small JSON files."""

import pytest

from rekernel.checkpoint.strict_json import read_object
from rekernel.errors import CheckpointError


def test_an_object_is_read(tmp_path):
    (tmp_path / "config.json").write_text(' {"patch_size": 16, "n": [1.5, null]}\n')
    assert read_object(tmp_path / "config.json") == {"patch_size": 16, "n": [1.5, None]}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[1]", "not a JSON object, as the configuration must be"),
        ("", "not a JSON object"),
        ("<html>", "an HTML page"),
        ('{"a": 1, "a": 2}', "key a appears twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1', "is not JSON"),
        ('{"a": ' + "[" * 100_000, "nested too deep"),
        ('{"a": "' + "x" * 100 + '"}', "has more than 64 bytes, too many for this kind of file"),
    ],
)
def test_anything_else_is_one_line_that_names_the_file(tmp_path, text, what):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_object(tmp_path / "config.json", limit=64 if "xxx" in text else 1 << 20)
    said = str(caught.value)
    assert what in said and "config.json" in said and "\n" not in said


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(CheckpointError):
            read_object(path)
