"""What is an address of the Hub, and what is a path."""

import pytest

from rekernel import RekernelError
from rekernel.checkpoint.paths import plain_parts
from rekernel.sources.address import Address, address_of, is_repo


@pytest.mark.parametrize(
    "text, expected",
    [
        ("hf://org/name", Address("org/name")),
        ("hf://org/name/", Address("org/name")),
        ("hf:/org/name", Address("org/name")),  # what pathlib makes of it
        ("hf://models/org/name/unet", Address("org/name", "", "unet")),
        ("hf://org/na.me_1@v1.0", Address("org/na.me_1", "v1.0")),
        ("hf://org/name@refs/pr/7/unet/x.safetensors", Address("org/name", "refs/pr/7", "unet/x.safetensors")),
        ("hf://org/name@refs/pr/7x/unet", Address("org/name", "refs", "pr/7x/unet")),
        ("hf://org/name@feature%2Fx/unet", Address("org/name", "feature/x", "unet")),
        ("hf://org/name/a@b/c", Address("org/name", "", "a@b/c")),
        ("org/name", Address("org/name")),
    ],
)
def test_addresses_are_read_and_written_back(text, expected):
    address = address_of(text)
    assert address == expected
    assert address_of(str(address)) == address


@pytest.mark.parametrize(
    "text", ["model.safetensors", "org/model.safetensors", "org/index.json", "a/b/c", "./name", "../name", "/a/b",
             "org/na--me", "org/name.git", "~/name", "org/"],
)  # fmt: skip
def test_paths_that_are_not_there_stay_paths(text):
    assert address_of(text) is None


def test_what_is_on_the_disk_is_a_path_and_so_is_what_its_folder_should_hold(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert address_of("org/name") is None
    assert address_of("org/nmae") is None  # a typing error in a folder that exists is no reason to ask a server
    assert address_of("hf://org/name") == Address("org/name")
    assert address_of(tmp_path / "else" / "where") is None


@pytest.mark.parametrize(
    "text", ["hf://", "hf://gpt2", "hf://org/", "hf://org/name@", "hf://org/na--me", "hf://org/name/../other",
             "hf://org/name/a//b", "hf://org/name/a\\b", "hf://datasets/org/name", "hf://spaces/org/name",
             "https://huggingface.co/org/name", "hf://org/na me", "hf://../name"],
)  # fmt: skip
def test_broken_addresses_are_refused_in_one_line(text):
    with pytest.raises(RekernelError) as refused:
        address_of(text)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a\\b", "c:x", "a/./b", "a\0b", "", "a\ud800"])
def test_names_out_of_a_listing_that_leave_the_folder_are_dropped(name):
    assert plain_parts(name) is None


def test_what_repositories_can_be_called_is_what_the_client_takes():
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    names = ["a/b", "a-b/c.d", "a/b.git", "a/b--c", "a/.b", "a/b.", "a/-b", "a/b..c", "a b/c", "a/b/c", "ä/b", "a/_b"]
    for name in names:
        try:
            validate_repo_id(name)
            accepted = True
        except HFValidationError:
            accepted = False
        assert is_repo(name) == accepted, name
