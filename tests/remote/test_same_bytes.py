"""A conversion from or into a store gives the bytes that a conversion on this disk gives."""

from __future__ import annotations

import pytest

import rekernel as rk

from .conftest import Store
from .models import contents, converted, file, pipeline, sharded


def test_a_file_from_and_into_a_store(store: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    expected = converted(source, tmp_path / "out.safetensors").read_bytes()
    address = store.put("models/in.safetensors", source.read_bytes())

    here = rk.convert(address, tmp_path / "here.safetensors", scale=2)
    assert here.target.read_bytes() == expected
    there = rk.convert(source, store.url("there.safetensors"), scale=2)
    assert store.get("there.safetensors") == expected
    assert (there.target, there.files) == (store.url("there.safetensors"), (store.url("there.safetensors"),))
    assert there.nbytes == len(expected)
    assert (there.bytes_written, there.tensors_changed) == (here.bytes_written, here.tensors_changed)
    both = rk.convert(address, store.url("results") + "/", scale=2)
    assert both.target == store.url("results/in.safetensors")
    assert store.contents("results") == {"in.safetensors": expected}
    assert store.uploads() == []


def test_a_file_goes_into_a_folder_that_exists_and_into_a_bucket(store: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    store.put("there/other.txt", b"x")
    assert rk.convert(source, store.url("there"), scale=2).target == store.url("there/in.safetensors")
    assert rk.convert(source, store.url(), scale=2).target == store.url("in.safetensors")
    assert store.names() == ["in.safetensors", "there/in.safetensors", "there/other.txt"]


def test_tensors_in_another_order_than_the_header_that_is_written(store: Store, tmp_path):
    """The cast changes which tensors come first, and an object is written front to back."""
    source = file(tmp_path / "in.safetensors", layers=9)
    expected = converted(source, tmp_path / "out.safetensors", dtype="F64").read_bytes()
    rk.convert(source, store.url("out.safetensors"), scale=2, dtype="F64")
    assert store.get("out.safetensors") == expected


@pytest.mark.parametrize("form", ["folder", "index"])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": 100_000}], ids=["as it is", "repacked"])
def test_a_sharded_checkpoint(store: Store, tmp_path, form, options):
    folder = sharded(tmp_path / "in")
    address = store.upload(folder, "in")
    inside = "" if form == "folder" else "/model.safetensors.index.json"
    expected = contents(converted(f"{folder}{inside}", tmp_path / "out", **options))
    rk.convert(f"{address}{inside}", tmp_path / "here", scale=2, **options)
    assert contents(tmp_path / "here") == expected
    report = rk.convert(f"{folder}{inside}", store.url("there"), scale=2, **options)
    assert store.contents("there") == expected
    assert {name.removeprefix(store.url("there/")) for name in report.files} == set(expected)
    assert report.files[-1].endswith(".index.json")
    rk.convert(f"{address}{inside}", store.url("both"), scale=2, **options)
    assert store.contents("both") == expected


def test_a_pipeline_folder(store: Store, tmp_path):
    folder = pipeline(tmp_path / "in")
    address = store.upload(folder, "deep/in")
    expected = contents(converted(folder, tmp_path / "out"))
    assert expected["text_encoder/model.safetensors"] == (folder / "text_encoder/model.safetensors").read_bytes()
    rk.convert(address, tmp_path / "here", scale=2)
    assert contents(tmp_path / "here") == expected
    report = rk.convert(folder, store.url("there"), scale=2)
    assert store.contents("there") == expected
    assert report.files[-1] == store.url("there/model_index.json")
    rk.convert(f"{address}/", store.url("both/"), scale=2)
    assert store.contents("both") == expected


def test_plans_estimates_and_listings_are_those_of_the_disk(store: Store, tmp_path):
    folder, source = pipeline(tmp_path / "in"), file(tmp_path / "in.safetensors")
    places = [(folder, store.upload(folder, "in")), (source, store.put("in.safetensors", source.read_bytes()))]
    for local, address in places:
        plans, expected = rk.plan_source(address, scale=2), rk.plan_source(local, scale=2)
        assert {n: p.to_json() for n, p in plans.items()} == {n: p.to_json() for n, p in expected.items()}
        assert rk.estimate(address, plans) == rk.estimate(local, expected)
        found, listed = rk.inspect(address), rk.inspect(local)
        assert found.path == address
        assert (found.kind, found.tensors, found.nbytes) == (listed.kind, listed.tensors, listed.nbytes)
        assert {n: i.tensors for n, i in found.components.items()} == {
            n: i.tensors for n, i in listed.components.items()
        }
    with_plan = rk.plan_checkpoint(store.url("in.safetensors"), scale=2)
    assert with_plan.to_json() == rk.plan_checkpoint(source, scale=2).to_json()
    assert rk.convert(store.url("in.safetensors"), store.url("planned.safetensors"), plan=with_plan).tensors_changed


def test_the_trained_size_beside_the_weights_is_found(store: Store, tmp_path):
    folder = pipeline(tmp_path / "in")
    sizes = {"size": 16}
    expected = rk.plan_source(folder, **sizes)["unet"].to_json()
    assert rk.plan_source(store.upload(folder, "in"), **sizes)["unet"].to_json() == expected


def test_a_file_address_is_a_path(tmp_path):
    source = file(tmp_path / "in.safetensors")
    expected = converted(source, tmp_path / "out.safetensors").read_bytes()
    report = rk.convert(f"file://{source}", f"file://{tmp_path}/again.safetensors", scale=2)
    assert report.target == tmp_path / "again.safetensors"
    assert report.target.read_bytes() == expected


@pytest.mark.parametrize("name", ["a b", "a#b", "a?b", "a%20b", "a[1]*", "ü", "a::b", "a@b:c", "it's"])
def test_names_with_characters_that_mean_something_elsewhere(store: Store, tmp_path, name):
    source = file(tmp_path / "in.safetensors")
    expected = converted(source, tmp_path / "out.safetensors").read_bytes()
    store.put(f"{name}/{name}.safetensors", source.read_bytes())
    address = store.url(f"{name}/{name}.safetensors")
    assert rk.convert(address, tmp_path / "here.safetensors", scale=2).target.read_bytes() == expected
    rk.convert(source, store.url(f"{name}/new {name}.safetensors"), scale=2)
    assert store.get(f"{name}/new {name}.safetensors") == expected
    rk.convert(store.url(name) + f"/{name}.safetensors", store.url(f"{name}2/"), scale=2)
    assert store.contents(f"{name}2") == {f"{name}.safetensors": expected}
