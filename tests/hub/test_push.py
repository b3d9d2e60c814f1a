"""Publishing: what is uploaded and what is not, one commit, its guard, and uploads that break."""

import json
import re

import pytest

from .conftest import card, checkpoint
from .repositories import Fault
from .server import PART, READER


@pytest.fixture
def out(hub, rekernel, name, tmp_path):
    """A converted folder; its weights take several parts to upload."""
    files = {"model.safetensors": checkpoint(size=48), "config.json": b"{}", "README.md": card(license="mit")}
    hub.add(f"org/{name}", files)
    assert rekernel("convert", f"hf://org/{name}", "out", "--scale", 2).code == 0
    hub.reset()
    return tmp_path / "out"


def test_a_push_is_one_commit_of_the_conversion_and_a_card(hub, rekernel, name, out):
    report = rekernel("push", "out", f"me/{name}", "--json").json
    repo = hub.repos[f"me/{name}"]
    assert [commit.sha for commit in repo.commits][1:] == [report["commit"]]
    assert set(repo.head.files) == {".gitattributes", "model.safetensors", "config.json", "README.md"}
    assert repo.head.files["model.safetensors"].data == (out / "model.safetensors").read_bytes()
    assert repo.head.files["README.md"].data.decode() == report["card"]
    assert repo.head.message == f"Rescale org/{name} by 2 (optimal, gain dc, 2 tensors)"
    assert hub.repos[f"org/{name}"].head.sha in repo.head.description
    # In parts, to the store, which never sees the token.
    parts = hub.asked("PUT", "/part/")
    assert len(parts) == -(-(out / "model.safetensors").stat().st_size // PART) > 1
    assert not any("authorization" in part.headers for part in parts)
    [commit] = hub.asked("POST", "/commit/")
    assert commit.headers["user-agent"].startswith("rekernel/")


def test_a_small_file_goes_in_one_piece_and_a_file_alone_takes_the_licence_from_the_source_s_card(
    hub, rekernel, name, tmp_path
):
    hub.add(f"org/{name}", {"m.safetensors": checkpoint(size=4), "README.md": card(license="apache-2.0")})
    assert rekernel("convert", f"hf://org/{name}/m.safetensors", "m2.safetensors", "--scale", 2).code == 0
    ran = rekernel("push", "m2.safetensors", f"me/{name}")
    assert ran.code == 0 and ran.stderr == "", ran.stderr
    assert len(hub.asked("PUT", "/put/")) == 1
    head = hub.repos[f"me/{name}"].head
    assert set(head.files) == {".gitattributes", "m2.safetensors", "README.md"}
    assert b"license: apache-2.0" in head.files["README.md"].data


def test_in_python_a_function_hears_of_each_file_and_notes_are_warnings(hub, rekernel, name, out):
    ran = rekernel(
        python=f"""
import json, warnings, rekernel as rk
from rekernel.hub import push
seen = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    done = push("out", "me/{name}", progress=lambda *at: seen.append(at))
    push("out", "me/{name}-other", base_model="org/other", license="apache-2.0", dry_run=True)
said = [str(each.message) for each in caught if each.category is rk.RekernelWarning]
print(json.dumps([seen, done.files, said]))
"""
    )
    assert ran.code == 0, ran.stderr
    seen, files, said = json.loads(ran.stdout)
    total = sum(size for _, size in files)
    assert seen[0] == [0, total] and seen[-1] == [total, total] and len(seen) == len(files) + 1
    assert set(hub.repos[f"me/{name}"].head.files) >= {file for file, _ in files}
    assert any("this one is going to say apache-2.0" in note for note in said) and len(said) == len(set(said))


def test_a_dry_run_lists_files_sizes_and_what_stays_and_asks_the_hub_nothing(hub, rekernel, name, out):
    for path, text in {
        ".env": "TOKEN=1",
        "__pycache__/x.pyc": "x",
        "notes/x.txt": "x",
        "old.bin": "x",
        "run.log": "x",
    }.items():
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_text(text)
    report = rekernel("push", "out", f"me/{name}", "--dry-run", "--json").json
    assert {file["name"] for file in report["files"]} == {"README.md", "config.json", "model.safetensors"}
    sizes = {file["name"]: file["bytes"] for file in report["files"]}
    assert sizes["model.safetensors"] == (out / "model.safetensors").stat().st_size
    assert sizes["README.md"] == len(report["card"].encode())
    assert {file["name"]: file["reason"] for file in report["left"]} == {
        ".env": "hidden", "__pycache__/x.pyc": "a cache or a log", "run.log": "a cache or a log",
        "notes/x.txt": "in a folder that is not part of the model", "old.bin": "weights that were not rescaled",
    }  # fmt: skip
    assert report["dry_run"] and not report["url"] and f"me/{name}" not in hub.repos and hub.seen == []
    table = rekernel("push", "out", f"me/{name}", "--dry-run").stdout
    assert re.search(r"model\.safetensors  27\d\.\d kB", table)  # the length of the recipe is in it
    assert "Dry run: nothing was uploaded." in table and "notes/x.txt" in table


def test_links_that_leave_the_folder_stop_a_push(rekernel, name, out, tmp_path):
    (tmp_path / "secret.txt").write_text("x")
    (out / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    assert "a link that leads out of its folder" in rekernel("push", "out", f"me/{name}").line
    (out / "vocab.txt").unlink()
    (out / "more").symlink_to(tmp_path)
    assert "a link" in rekernel("push", "out", f"me/{name}").line


@pytest.mark.parametrize("what", ["empty", "original.safetensors", "originals", "missing"])
def test_what_was_not_converted_is_refused(hub, rekernel, name, tmp_path, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "originals").mkdir()
    for path in ("original.safetensors", "originals/model.safetensors"):
        (tmp_path / path).write_bytes(checkpoint())
    said = rekernel("push", what, f"me/{name}").line
    assert said.startswith(f"{what}: ") and ("no recipe" in said or "no such file" in said)
    assert hub.seen == []


def test_private_existing_and_somebody_else_s_repositories(hub, rekernel, name, out):
    assert rekernel("push", "out", f"me/{name}", "--private").code == 0
    repo = hub.repos[f"me/{name}"]
    assert repo.private
    said = rekernel("push", "out", f"me/{name}").line
    assert said == f"hf://me/{name}: exists already; pass --exist-ok to add a commit to it, or --pr to propose one."
    same = rekernel("push", "out", f"me/{name}", "--exist-ok")
    assert "already holds these 3 files" in same.stdout and len(repo.commits) == 2
    (out / "config.json").write_text('{"a": 1}')
    assert rekernel("push", "out", f"me/{name}", "--exist-ok", "-m", "Config").code == 0
    assert repo.head.message == "Config" and repo.head.files["config.json"].data == b'{"a": 1}'
    said = rekernel("push", "out", f"them/{name}").line
    assert said.startswith(f"hf://them/{name}: this token may not write to them/{name} (You don't have the rights")


def test_a_pull_request_leaves_the_branch_alone(hub, rekernel, name, out):
    there = hub.add(f"them/{name}", {"README.md": b"x"})
    report = rekernel("push", "out", f"them/{name}", "--pr", "--json", token=READER).json
    assert report["url"].endswith(f"/them/{name}/discussions/1")
    assert set(there.head.files) == {"README.md"}
    assert set(there.branches["refs/pr/1"].files) == {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize("token", [None, READER, "hf_wrong"])
def test_without_the_right_to_write(hub, rekernel, name, out, token):
    hub.add(f"me/{name}", {"README.md": b"x"})
    said = rekernel("push", "out", f"me/{name}", "--exist-ok", token=token).line
    expected = {
        None: "needs a token that may write there",
        READER: "this token may not write",
        "hf_wrong": "the Hub does not accept the token",
    }
    assert said.startswith(f"hf://me/{name}: ") and expected[token] in said
    assert len(hub.repos[f"me/{name}"].commits) == 1


@pytest.mark.parametrize("status", [0, 409, 412])
def test_a_repository_that_moved_on_is_not_committed_to(hub, rekernel, name, out, status):
    """412 is what the Hub answers to a parent that is not the head; with 0 the head really moved."""
    repo = hub.add(f"me/{name}", {"README.md": b"x"})
    first = repo.head.sha
    repo.commit({"README.md": hub.blob("README.md", b"y")}, "meanwhile")
    if status:
        hub.faults.append(Fault("POST", "/commit/", status, error="A commit has happened since."))
    parent = first if not status else repo.head.sha
    said = rekernel("push", "out", f"me/{name}", "--exist-ok", "--parent-commit", parent).line
    assert said == (
        f"hf://me/{name}: the repository changed meanwhile: its head is no longer {parent[:12]}. "
        "Nothing was committed; look at "
        "what happened there, then push again."
    )
    assert repo.head.message == "meanwhile"
    assert rekernel("push", "out", f"me/{name}", "--exist-ok", "--parent-commit", repo.head.sha).code == 0


def test_the_parent_is_the_head_before_anything_is_uploaded(hub, rekernel, name, out):
    repo = hub.add(f"me/{name}", {"README.md": b"x"})
    before = repo.head.sha
    assert rekernel("push", "out", f"me/{name}", "--exist-ok").code == 0
    asked = [seen.path for seen in hub.seen if seen.method in ("GET", "POST", "PUT")]
    read = asked.index(f"/api/models/me/{name}")
    assert read < min(i for i, path in enumerate(asked) if "preupload" in path or "/part/" in path)
    assert hub.parents[-1] == before


def test_an_upload_that_breaks_is_repeated(hub, rekernel, name, out):
    hub.faults += [Fault("PUT", r"/part/\w+/2", cut=0.5), Fault("POST", "/preupload/", 429, {"Retry-After": "0"})]
    ran = rekernel("push", "out", f"me/{name}")
    assert ran.code == 0, ran.stderr
    assert len(hub.asked("PUT", r"/part/\w+/2")) == 2 and len(hub.asked("POST", "/preupload/")) == 2
    assert hub.repos[f"me/{name}"].head.files["model.safetensors"].data == (out / "model.safetensors").read_bytes()


def test_an_upload_that_fails_leaves_no_commit_and_the_same_command_goes_on(hub, rekernel, name, out):
    hub.faults.append(Fault("POST", "/commit/", 403, error="over quota"))
    said = rekernel("push", "out", f"me/{name}").line
    assert said == (
        f"hf://me/{name}: this token may not write to me/{name} (over quota); "
        f"make one with that permission at {hub.endpoint}/settings/tokens."
    )
    assert set(hub.repos[f"me/{name}"].head.files) == {".gitattributes"}
    hub.seen.clear()
    assert rekernel("push", "out", f"me/{name}").code == 0
    assert not hub.asked("PUT", "/part/"), "what had arrived was sent again"


def test_an_upload_the_store_refuses_is_one_line(hub, rekernel, name, out):
    hub.faults.append(Fault("PUT", "/part/", 400, error="no space", times=9))
    said = rekernel("push", "out", f"me/{name}").line
    assert said == f"hf://me/{name}: the Hub refused the request with 400 (no space)."


def test_old_weights_that_stay_beside_the_new_are_said(hub, rekernel, name, out):
    hub.add(f"me/{name}", {"model-00001-of-00002.safetensors": checkpoint(), "vae/x.safetensors": checkpoint()})
    ran = rekernel("push", "out", f"me/{name}", "--exist-ok")
    assert "note: the repository also holds model-00001-of-00002.safetensors, which a loader may read" in ran.stderr
    assert "vae/x" not in ran.stderr


@pytest.mark.parametrize(
    "front, said",
    [
        ({"license": "mit"}, ""),
        ({}, "the source's licence is unknown"),
        ({"license": "unknown"}, "the source's licence is unknown"),
        ({"license": "other", "license_name": "foo-1"}, "not in the Hub's list, foo-1"),
        ({"license": ["evil\n<b>"]}, "the source's licence is unknown"),
    ],
)
def test_the_licence_is_carried_and_doubts_are_said_before(hub, rekernel, name, out, front, said):
    (out / "README.md").write_bytes(card(**front))
    dry = rekernel("push", "out", f"me/{name}", "--dry-run", "--json")
    notes = json.loads(dry.stdout)["notes"]
    assert (len(notes) == 1 and said in notes[0] and said in dry.stderr) if said else notes == []
    text = rekernel("push", "out", f"me/{name}", "--dry-run", "--license", "mit", "--json").json
    assert "license: mit\n" in text["card"]


def test_a_licence_without_derivatives_needs_a_word(hub, rekernel, name, out):
    (out / "README.md").write_bytes(card(license="cc-by-nc-nd-4.0"))
    for arguments in ((), ("--dry-run",), ("--license", "mit")):
        said = rekernel("push", "out", f"me/{name}", *arguments).line
        assert "cc-by-nc-nd-4.0, forbids publishing changed versions" in said and "--permitted" in said
    assert hub.seen == []
    ran = rekernel("push", "out", f"me/{name}", "--permitted")
    assert ran.code == 0 and "forbids publishing changed versions" in ran.stderr
    assert b"license: cc-by-nc-nd-4.0" in hub.repos[f"me/{name}"].head.files["README.md"].data


def test_a_card_of_one_s_own_is_taken_as_it_is(hub, rekernel, name, out, tmp_path):
    (tmp_path / "mine.md").write_bytes(card(license="mit") + b"Mine.\n")
    assert rekernel("push", "out", f"me/{name}", "--card", "mine.md").code == 0
    assert hub.repos[f"me/{name}"].head.files["README.md"].data.endswith(b"Mine.\n")
    (out / "README.md").write_bytes(card(license="mit", tags=["rekernel"]) + b"Edited.\n")
    assert rekernel("push", "out", f"me/{name}", "--exist-ok").code == 0
    assert hub.repos[f"me/{name}"].head.files["README.md"].data.endswith(b"Edited.\n")


def test_metadata_the_hub_does_not_take_is_one_line(hub, rekernel, name, out, tmp_path):
    (tmp_path / "mine.md").write_text("---\nlicense: Not A Licence\n---\n")
    said = rekernel("push", "out", f"me/{name}", "--card", "mine.md").line
    assert said.startswith(f"hf://me/{name}: ") and "Invalid metadata in README.md" in said
