"""What a user reads when the Hub, or the way there, refuses: one line each, exit code 1, and what to do."""

import pytest

from rekernel.hub import push

from .conftest import checkpoint
from .repositories import Fault
from .server import READER

COMMANDS = {
    "inspect": lambda address: ("inspect", address),
    "plan": lambda address: ("plan", address, "--scale", 2),
    "convert": lambda address: ("convert", address, "out", "--scale", 2),
}


@pytest.fixture
def repo(hub, name):
    return hub.add(f"org/{name}", {"model.safetensors": checkpoint(), "config.json": b"{}"})


@pytest.mark.parametrize("command", COMMANDS)
def test_gated_repositories_say_where_to_accept_their_conditions(hub, rekernel, name, repo, command, tmp_path):
    repo.gated = True
    for token in (None, READER):  # 401 and 403
        said = rekernel(*COMMANDS[command](f"hf://org/{name}"), token=token).line
        assert f"is gated: accept its conditions at {hub.endpoint}/org/{name}, then `hf auth login`" in said
    assert not (tmp_path / "out").exists()
    assert rekernel(*COMMANDS[command](f"hf://org/{name}")).code == 0


@pytest.mark.parametrize("token", [None, READER])
def test_a_repository_that_is_not_there(rekernel, name, token):
    said = rekernel("inspect", f"hf://org/{name}", token=token).line
    assert said == (
        f"hf://org/{name}: no such model repository, or it is private and needs a token that may read it: "
        "check the name, or run `hf auth login`."
    )


def test_a_token_that_is_not_accepted(hub, rekernel, name, repo):
    said = rekernel("inspect", f"hf://org/{name}", token="hf_wrong").line
    assert said == (
        f"hf://org/{name}: the Hub does not accept the token; make another at {hub.endpoint}/settings/tokens, "
        "then `hf auth login` (or set HF_TOKEN)."
    )


def test_a_revision_and_a_file_that_are_not_there(rekernel, name, repo):
    said = rekernel("convert", f"hf://org/{name}@v9", "out", "--scale", 2).line
    assert said == f"hf://org/{name}@v9: this repository does not have such a branch, tag or commit."
    said = rekernel("inspect", f"hf://org/{name}/other.safetensors").line
    assert said.endswith(
        "this repository does not have such a file or folder; its top level holds config.json, model.safetensors."
    )


def test_too_many_requests_are_waited_for_and_said_when_they_do_not_end(hub, rekernel, name, repo):
    hub.faults.append(Fault("GET", "/resolve/", 429, {"Retry-After": "0"}))
    ran = rekernel("inspect", f"hf://org/{name}")
    assert ran.code == 0 and len(hub.asked("GET", "/resolve/")) == 2
    hub.faults.append(Fault("GET", "/api/models/org", 429, times=9))
    said = rekernel("inspect", f"hf://org/{name}").line
    assert said == (
        f"hf://org/{name}: too many requests, also after waiting; run the same command later to continue from here."
    )


def test_a_server_that_fails_and_one_that_is_not_there(hub, rekernel, program, name, repo):
    hub.faults.append(Fault("GET", "/api/models/org", 500, times=9))
    assert rekernel("inspect", f"hf://org/{name}").line.startswith(f"hf://org/{name}: the server failed with 500")
    said = program("inspect", f"hf://org/{name}", HF_ENDPOINT="http://127.0.0.1:9").line
    assert said.startswith(f"hf://org/{name}: cannot reach http://127.0.0.1:9 (") and "try again" in said


def test_a_server_that_lies_about_a_header(hub, rekernel, name):
    data = bytearray(checkpoint())
    data[:8] = (10**12).to_bytes(8, "little")
    hub.add(f"org/{name}", {"model.safetensors": bytes(data)})
    said = rekernel("inspect", f"hf://org/{name}").line
    where = f"hf://org/{name}/model.safetensors"
    assert said.startswith(
        f"{where}: not a safetensors file: it begins with a header length of {10**12}, over the limit"
    )


def test_weights_that_were_not_fetched_cannot_be_read(rekernel, name, repo):
    ran = rekernel(python=(
        "from rekernel.sources.opening import open_location\n"
        f"with open_location('hf://org/{name}') as place, place.open(place.path) as source:\n"
        "    print(len(source.tensors))\n"
        "    source.read('conv1.weight')\n"
    ))  # fmt: skip
    assert ran.code == 99 and ran.stdout == "4\n"
    assert ran.stderr.splitlines()[-1].endswith(
        f"CheckpointError: hf://org/{name}/model.safetensors: the file was cut short while it was read, "
        "at tensor conv1.weight."
    )


def test_opening_an_address_reads_its_weights_from_the_cache(rekernel, name, repo):
    script = (
        "from rekernel.sources.opening import open_source\n"
        f"with open_source('hf://org/{name}') as source:\n"
        "    print(len(source.read('conv1.weight')), 'snapshots' in str(source.path))\n"
    )
    assert rekernel(python=script).stdout == f"{16 * 3 * 9 * 4} True\n"


@pytest.mark.parametrize("arguments, code", [(("push",), 2), (("push", "x"), 2), (("inspect",), 2),
                                             (("push", "x", "me/y", "--nope"), 2)])  # fmt: skip
def test_wrong_usage_is_exit_code_2(rekernel, arguments, code):
    assert rekernel(*arguments).code == code


@pytest.mark.parametrize("address", ["hf://", "hf://org", "hf://org/name@", "hf://org/a--b"])
def test_broken_addresses_are_one_line(rekernel, address):
    assert rekernel("inspect", address).line.startswith(address)


def test_without_the_client_one_line_says_how_to_get_it(program, tmp_path):
    """A module of that name that cannot be imported comes first on the path: what a machine without it looks like."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "huggingface_hub.py").write_text("raise ImportError('no such module')\n")
    import os

    from .conftest import ROOT

    path = os.pathsep.join(map(str, (tmp_path / "shadow", ROOT / "src", ROOT / "cli")))
    said = program("inspect", "hf://org/name", PYTHONPATH=path).line
    assert said == "the Hub needs the package huggingface_hub: pip install huggingface_hub"


def test_push_says_what_is_wrong_with_its_arguments(tmp_path):
    from rekernel import RekernelError

    for arguments, word in (
        ({"repo": "me"}, "name/model"), ({"repo": "me/a--b"}, "name/model"), ({"repo": "../x"}, "name/model"),
        ({"repo": "me/x", "parent_commit": "HEAD"}, "hexadecimal"), ({"repo": "me/x", "license": "My Own"}, "licence"),
        ({"repo": "me/x", "base_model": "bert"}, "name/model"),
    ):  # fmt: skip
        with pytest.raises(RekernelError, match=word):
            push(tmp_path, **arguments, dry_run=True)


PORTALS = {
    "page": b"<!doctype html><html>Sign in</html>", "nothing": b"", "bytes": b"\x00\xff\xfe", "null": b"null",
    "list": b"[]", "text": b'"welcome"', "object": b"{}",
}  # fmt: skip


@pytest.mark.parametrize("place", ["/api/models/[^/]+/[^/]+(/revision|$)", "/tree/"], ids=["commit", "listing"])
@pytest.mark.parametrize("portal", PORTALS)
def test_a_network_that_answers_instead_of_the_hub_is_said(hub, rekernel, name, repo, portal, place, tmp_path):
    if portal in ("list", "object") and place == "/tree/":
        pytest.skip("a repository without files")
    hub.faults.append(Fault("GET", place, 200, {"Content-Type": "text/html"}, times=9, body=PORTALS[portal]))
    said = rekernel("convert", f"hf://org/{name}", "out", "--scale", 2).line
    assert said.startswith(f"hf://org/{name}: {hub.endpoint} does not answer as the Hub does (")
    assert "the network may want you to sign in first" in said
    assert not (tmp_path / "out").exists()
    hub.reset()
    assert rekernel("inspect", f"hf://org/{name}").code == 0


def test_a_listing_with_a_size_that_is_not_one_is_said(hub, rekernel, name, repo):
    body = b'[{"type": "file", "path": "model.safetensors", "size": null, "oid": "1"}]'
    hub.faults.append(Fault("GET", "/tree/", 200, {"Content-Type": "application/json"}, times=9, body=body))
    assert "does not answer as the Hub does" in rekernel("inspect", f"hf://org/{name}").line
