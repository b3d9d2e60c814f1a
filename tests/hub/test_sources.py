"""Looking at, planning and converting what lies on the Hub: the bytes asked for, and the bytes that result."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import rekernel as rk

from .conftest import card, checkpoint, weights
from .repositories import Fault
from .server import READER

INDEX = "model.safetensors.index.json"


def sharded() -> dict[str, bytes]:
    tensors = weights(size=64)
    parts = {"model-00001-of-00002.safetensors": ["conv1.weight", "conv1.bias"],
             "model-00002-of-00002.safetensors": ["conv2.weight", "point.weight"]}  # fmt: skip
    files = {file: save({name: tensors[name] for name in names}) for file, names in parts.items()}
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    return {**files, INDEX: json.dumps(index).encode()}


def downloaded(hub) -> int:
    """Bytes of weights that left the store."""
    return sum(seen.sent for seen in hub.seen if seen.origin == "store")


def test_inspect_and_plan_say_of_an_address_what_they_say_of_its_folder_for_the_bytes_of_the_headers(
    hub, rekernel, name, tmp_path
):
    files = {**sharded(), "config.json": b"{}"}
    hub.add(f"org/{name}", files)
    for file, data in files.items():
        (tmp_path / "local").mkdir(exist_ok=True)
        (tmp_path / "local" / file).write_bytes(data)
    there, here = (rekernel("inspect", s, "--json").json for s in (f"hf://org/{name}", "local"))
    assert there.pop("path") == f"hf://org/{name}/{INDEX}" and here.pop("path")
    assert there == here
    plan = rekernel("plan", f"hf://org/{name}", "--scale", 2, "--json").json
    assert plan == rekernel("plan", "local", "--scale", 2, "--json").json
    assert not [seen for seen in hub.asked("GET", "/get/") if "range" not in seen.headers]


def test_inspect_of_a_large_file_fetches_its_header_alone(hub, rekernel, name):
    hub.add(f"org/{name}", {"model.safetensors": checkpoint(size=300)})
    assert rekernel("inspect", f"hf://org/{name}/model.safetensors", "--json").json["bytes"] > 3_000_000
    assert downloaded(hub) == 100_000
    assert len(hub.asked("GET", "/resolve/")) == 1


def test_a_header_larger_than_the_first_request_takes_exactly_one_more(hub, rekernel, name):
    tensors = {f"block.{i}.{'x' * 60}.weight": np.ones((1,), np.float32) for i in range(1500)}
    data = save(tensors)
    hub.add(f"org/{name}", {"model.safetensors": data + b""})
    assert len(rekernel("inspect", f"hf://org/{name}", "--json").json["tensors"]) == 1500
    header = 8 + int.from_bytes(data[:8], "little")
    assert header > 100_000
    assert [seen.headers["range"] for seen in hub.asked("GET", "/resolve/")] == [
        "bytes=0-99999", f"bytes=100000-{header - 1}",
    ]  # fmt: skip


def test_convert_of_a_repository_equals_convert_of_its_folder_and_knows_where_it_came_from(
    hub, rekernel, name, tmp_path
):
    files = {"model.safetensors": checkpoint(), "config.json": b'{"a": 1}', "README.md": card(license="mit")}
    heavy = {"pytorch_model.bin": b"old" * 9999, "onnx/model.onnx": b"old" * 9999, ".gitattributes": b"x"}
    repo = hub.add(f"org/{name}", files | heavy)
    assert rekernel("convert", f"hf://org/{name}", "out", "--scale", 2).code == 0
    (tmp_path / "local").mkdir()
    for file, data in files.items():
        (tmp_path / "local" / file).write_bytes(data)
    assert rekernel("convert", "local", "copy", "--scale", 2).code == 0
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == sorted(files)
    for other in ("config.json", "README.md"):
        assert (tmp_path / "out" / other).read_bytes() == files[other]
    one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "copy"))
    assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)
    assert not hub.asked("GET", "pytorch_model|onnx"), "weights that no conversion copies were downloaded"
    [source] = rekernel("inspect", "out", "--json").json["recipe"]["sources"]
    assert source == {
        "repo": f"org/{name}", "commit": repo.head.sha, "path": "model.safetensors",
        "bytes": len(files["model.safetensors"]), "sha256": hashlib.sha256(files["model.safetensors"]).hexdigest(),
    }  # fmt: skip
    assert "repo" not in rekernel("inspect", "copy", "--json").json["recipe"]["sources"][0]


def test_a_second_conversion_downloads_nothing_again(hub, rekernel, name):
    hub.add(f"org/{name}", sharded())
    assert rekernel("convert", f"hf://org/{name}", "one", "--scale", 2).code == 0
    hub.seen.clear()
    assert rekernel("convert", f"hf://org/{name}", "two", "--scale", 3).code == 0
    assert downloaded(hub) == 0


def pipeline() -> dict[str, bytes]:
    """A diffusers repository as they are: variants, pickles and single files beside what its loader takes."""
    index = {
        "_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text": ["transformers", "CLIPTextModel"], "scheduler": ["diffusers", "DDIMScheduler"],
        "feature_extractor": [None, None],
    }  # fmt: skip
    model = "diffusion_pytorch_model"
    wanted = {
        "model_index.json": json.dumps(index).encode(), "README.md": card(license="openrail"),
        "scheduler/scheduler_config.json": b"{}", "text/config.json": b"{}", "text/pytorch_model.bin": b"kept",
        f"unet/{model}.safetensors": checkpoint(1), "unet/config.json": b"{}",
        f"vae/{model}.safetensors": checkpoint(2), "vae/config.json": b"{}",
    }  # fmt: skip
    unwanted = {
        f"unet/{model}.fp16.safetensors": checkpoint(3), f"unet/{model}.bin": b"old",
        f"vae/{model}.fp16.safetensors": checkpoint(4), f"vae/{model}.bin": b"old",
        "v1-pruned.ckpt": b"old", "v1-pruned.safetensors": checkpoint(5), "text/pytorch_model.fp16.bin": b"no",
        "text/flax_model.msgpack": b"no", ".gitattributes": b"x",
    }  # fmt: skip
    return wanted | unwanted | {"left": json.dumps(sorted(unwanted)).encode()}


def test_of_a_pipeline_what_its_loader_takes_is_downloaded_and_copied_whatever_else_is_cached(
    hub, rekernel, name, tmp_path
):
    files = pipeline()
    left = json.loads(files.pop("left"))
    hub.add(f"org/{name}", files)
    # The cache may hold files of this commit that another program wanted.
    fetch = f"from huggingface_hub import hf_hub_download as f\nf('org/{name}', 'v1-pruned.safetensors')"
    assert rekernel(python=fetch).code == 0
    hub.seen.clear()
    ran = rekernel("convert", f"hf://org/{name}", "out", "--scale", 2)
    assert ran.code == 0, ran.stderr
    there = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert there == set(files) - set(left)
    # Headers of what is looked at are fetched by ranges; whole files only of what is wanted.
    whole = {seen.path.partition("/resolve/")[2].partition("/")[2] for seen in hub.asked("HEAD", "/resolve/")}
    assert whole == there
    assert "not copied, since these files hold the old weights: " in ran.stderr
    assert (tmp_path / "out" / "text" / "pytorch_model.bin").read_bytes() == b"kept"


def test_a_folder_a_file_and_a_revision_of_a_repository(hub, rekernel, name, tmp_path):
    files = pipeline()
    repo = hub.add(f"org/{name}", files)
    first = repo.head.sha
    repo.commit({"unet/diffusion_pytorch_model.safetensors": hub.blob("x.safetensors", checkpoint(9, 8))}, "smaller")
    repo.branches["old"] = repo.at(first)
    model = "diffusion_pytorch_model.safetensors"
    for address, size in (
        (f"@old/vae/{model}", 3008),
        (f"/unet/{model}", 864),
        ("/unet", 864),
        (f"@{first}/vae/{model}", 3008),
    ):
        assert rekernel("inspect", f"hf://org/{name}{address}", "--json").json["parameters"] == size, address
    assert rekernel("convert", f"hf://org/{name}/unet/{model}", "u.safetensors", "--scale", 2).code == 0
    assert load_file(tmp_path / "u.safetensors")["conv2.weight"].shape == (8, 8, 5, 5)
    said = rekernel("inspect", f"hf://org/{name}/nets").line
    assert (
        said == f"hf://org/{name}/nets: this repository does not have such a file or folder; its top level holds unet."
    )
    ambiguous = rekernel("inspect", f"hf://org/{name}@old/unet").line
    assert ambiguous.startswith(f"hf://org/{name}@old/unet: several checkpoints here (") and "/tmp" not in ambiguous


def test_a_plain_name_is_an_address_where_no_such_path_exists(hub, rekernel, name):
    hub.add(f"org/{name}", {"model.safetensors": checkpoint()})
    assert rekernel("inspect", f"org/{name}", "--json").json["path"] == f"hf://org/{name}/model.safetensors"


def test_a_plan_made_from_an_address_is_carried_out_on_it(hub, rekernel, name, tmp_path):
    hub.add(f"org/{name}", {"model.safetensors": checkpoint()})
    (tmp_path / "plan.json").write_text(rekernel("plan", f"hf://org/{name}", "--scale", 2, "--json").stdout)
    assert rekernel("convert", f"hf://org/{name}", "out", "--plan", "plan.json").code == 0
    hub.seen.clear()
    dry = rekernel("convert", f"hf://org/{name}", "out2", "--plan", "plan.json", "--dry-run")
    assert dry.code == 0 and not (tmp_path / "out2").exists() and downloaded(hub) == 0


def test_a_pickle_is_downloaded_only_where_it_may_be_read(hub, rekernel, name, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({key: torch.from_numpy(value) for key, value in weights().items()}, tmp_path / "m.bin")
    hub.add(f"org/{name}", {"pytorch_model.bin": (tmp_path / "m.bin").read_bytes(), "config.json": b"{}"})
    assert "only pickles" in rekernel("inspect", f"hf://org/{name}").line
    assert downloaded(hub) == 0
    ran = rekernel("convert", f"hf://org/{name}", "out/", "--scale", 2, "--allow-pickle")
    assert ran.code == 0, ran.stderr
    assert rekernel("inspect", "out", "--json").json["recipe"]["sources"][0]["repo"] == f"org/{name}"


def test_names_of_a_repository_never_leave_the_stand_in_nor_reach_the_terminal_raw(hub, rekernel, name, tmp_path):
    hub.add(f"org/{name}", {"../../evil.json": b"{}", "model.safetensors": checkpoint(), "a\x1b[31m[*].txt": b"x"})
    assert rekernel("inspect", f"hf://org/{name}").code == 0
    assert "\x1b" not in rekernel("inspect", f"hf://org/{name}/nothing").line
    assert not list(tmp_path.rglob("evil.json"))


def test_a_download_that_breaks_goes_on_where_it_broke(hub, rekernel, name, tmp_path):
    data = save(weights() | {"pointwise.weight": np.ones((2300, 2300, 1, 1), np.float32)})
    hub.add(f"org/{name}", {"model.safetensors": data})
    sha = hashlib.sha256(data).hexdigest()
    hub.faults.append(Fault("GET", f"/get/{sha}$", cut=0.6, after=1))
    ran = rekernel("convert", f"hf://org/{name}/model.safetensors", "out.safetensors", "--scale", 2)
    assert ran.code == 0, ran.stderr
    # One header to plan with, a part of the file, and what the client did not get of it, which writes 10 MiB at a time.
    header, first, second = hub.asked("GET", "/get/")
    assert header.headers["range"] == "bytes=0-99999" and "range" not in first.headers
    assert second.headers["range"] == f"bytes={10 << 20}-" and (10 << 20) + second.sent == len(data)
    assert rekernel("inspect", "out.safetensors", "--json").json["recipe"]["sources"][0]["sha256"] == sha


def test_without_a_connection_the_cache_is_enough(hub, rekernel, offline, name, tmp_path):
    files = pipeline()
    files.pop("left")
    hub.add(f"org/{name}", files)
    assert rekernel("convert", f"hf://org/{name}", "one", "--scale", 2).code == 0
    hub.seen.clear()
    ran = offline("convert", f"hf://org/{name}", "two", "--scale", 3)
    assert ran.code == 0, ran.stderr
    assert sorted(p.name for p in (tmp_path / "two").rglob("*")) == sorted(
        p.name for p in (tmp_path / "one").rglob("*")
    )
    assert offline("inspect", f"hf://org/{name}/unet/diffusion_pytorch_model.safetensors").code == 0
    missing = offline("convert", f"hf://org/{name}/v1-pruned.safetensors", "x.safetensors", "--scale", 2).line
    assert missing.startswith(f"hf://org/{name}/v1-pruned.safetensors: ") and "HF_HUB_OFFLINE is set" in missing
    unknown = offline("inspect", "hf://org/never-seen").line
    assert unknown.startswith("hf://org/never-seen: not all of it is in the cache, and HF_HUB_OFFLINE is set")
    assert hub.seen == []


def test_private_repositories_open_with_the_token_and_not_without(hub, rekernel, name):
    hub.add(f"me/{name}", {"model.safetensors": checkpoint()}, private=True)
    assert rekernel("inspect", f"hf://me/{name}").code == 0
    for token in (None, READER):
        said = rekernel("inspect", f"hf://me/{name}", token=token).line
        assert (
            said.startswith(f"hf://me/{name}: no such model repository, or it is private") and "hf auth login" in said
        )


def test_files_of_other_formats_are_downloaded_for_their_own_readers(hub, rekernel, name):
    hub.add(f"org/{name}", {"onnx/model.onnx": b"not really"})
    code = f"from rekernel.sources.opening import local_path\nprint(local_path('hf://org/{name}/onnx/model.onnx').read_bytes())"
    assert rekernel(python=code).stdout == "b'not really'\n"


def test_a_commit_made_between_planning_and_downloading_is_noticed(hub, rekernel, name):
    hub.add(f"me/{name}", {"model.safetensors": checkpoint(), "config.json": b"{}"})
    ran = rekernel(python=(
        "from huggingface_hub import HfApi\nfrom rekernel.sources.opening import open_location\n"
        f"with open_location('hf://me/{name}') as place:\n"
        f"    HfApi().upload_file(path_or_fileobj=b'new', path_in_repo='config.json', repo_id='me/{name}')\n"
        "    place.fetch(['config.json'])\n"
    ))  # fmt: skip
    assert ran.stderr.splitlines()[-1].endswith(
        f"HubError: hf://me/{name}: the repository got a new commit while rekernel read it; run the same again."
    )


@pytest.mark.parametrize("marked", [True, False])
def test_the_store_that_repositories_of_a_cache_share_is_read_where_it_is_marked_as_one(tmp_path, marked):
    """snapshots/<commit>/file -> blobs/<etag> -> <cache>/blobs/<2 digits>/<hash>, as newer clients lay it out."""
    store, repository = tmp_path / "blobs", tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    for folder in (store / "ab", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    if marked:
        (store / ".huggingface-shared-blobs").write_text("1\n")
    (store / "ab" / ("ab" * 32)).write_bytes(checkpoint())
    (repository / "blobs" / "etag").symlink_to(f"../../blobs/ab/{'ab' * 32}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/etag")
    if marked:
        assert rk.inspect(snapshot).parameters == 3008
    else:
        with pytest.raises(rk.RekernelError, match="leads out of its folder"):
            rk.inspect(snapshot)


def test_the_size_of_the_trained_image_is_read_in_the_repository_too(hub, rekernel, name):
    """129 positions are 1 + 16 x 8 by config.json; without it, nothing decides."""
    shapes = {"patch_embed.proj.weight": (8, 3, 4, 4), "cls_token": (1, 1, 8), "pos_embed": (1, 129, 8)}
    model = save({tensor: np.ones(shape, np.float32) for tensor, shape in shapes.items()})
    config = json.dumps({"model_type": "vit", "image_size": [64, 32], "patch_size": 4}).encode()
    sizes = {}
    for repo, files in (("told", {"config.json": config}), ("untold", {})):
        hub.add(f"org/{name}-{repo}", {"model.safetensors": model, **files})
        plan = rekernel("plan", f"hf://org/{name}-{repo}", "--scale", 2, "--mode", "supersample", "--json").json
        sizes[repo] = {change["name"]: change["new_shape"] for change in plan["changes"]}["pos_embed"]
    assert sizes == {"told": [1, 513, 8], "untold": [1, 129, 8]}
