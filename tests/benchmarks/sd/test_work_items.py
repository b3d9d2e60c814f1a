"""The pictures of a study are split over processes, named by their settings, and never half written."""

from dataclasses import replace

import pytest
from study import Method, Model, Study
from work_items import DONE, FAILED, SKIPPED, Item, Store, items_of, share_of

MODEL = Model("a", "source/a")
METHODS = (Method("untouched"), Method("cascade", kind="cascade"), Method("guided", guidance={"theta": 1.5}))
STUDY = Study("T", (MODEL, Model("b", "source/b")), (2.0, 4.0), ("x", "y", "z"), (0, 1), METHODS)


def test_every_combination_is_one_picture_and_a_model_comes_once():
    items = items_of(STUDY)
    assert len(items) == len({item.digest for item in items}) == 2 * 2 * 3 * 2 * 3
    models = [item.model.name for item in items]
    assert models == sorted(models)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_the_shares_are_disjoint_and_together_all(count):
    items = items_of(STUDY)
    shares = [share_of(items, index, count) for index in range(count)]
    assert sorted(item.digest for share in shares for item in share) == sorted(item.digest for item in items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_gets_about_as_many_pictures_of_each_method(count):
    items = items_of(STUDY)
    for method in METHODS:
        held = [sum(i.method == method for i in share_of(items, index, count)) for index in range(count)]
        assert max(held) - min(held) <= 1


ITEM = Item(MODEL, 4.0, METHODS[2], "x", 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(ITEM, model=replace(MODEL, steps=31)), replace(ITEM, model=replace(MODEL, dtype="float16")),
        replace(ITEM, model=replace(MODEL, call={"clip_skip": 1})), replace(ITEM, area=2.0),
        replace(ITEM, method=replace(METHODS[2], guidance={"theta": 1.4})), replace(ITEM, prompt="x "),
        replace(ITEM, method=replace(METHODS[2], kernels={"method": {4: "dilate"}})), replace(ITEM, seed=1),
    ],
)  # fmt: skip
def test_other_settings_have_another_digest(other):
    assert other.digest != ITEM.digest


def test_a_new_name_keeps_the_pictures_and_keys_may_be_numbers():
    renamed = replace(ITEM, model=replace(MODEL, name="n"), method=replace(METHODS[2], name="m", only="unet"))
    assert renamed.digest == ITEM.digest
    mixed = replace(ITEM, method=replace(METHODS[2], kernels={"method": {4: "dilate", "2": "optimal"}}))
    assert len(mixed.digest) == 32


def test_what_is_missing(tmp_path):
    store, items = Store(tmp_path), items_of(STUDY)[:4]
    assert store.missing(items) == items
    store.keep(items[0], b"png", {"state": DONE})
    store.keep(items[1], None, {"state": SKIPPED, "reason": "r"})
    store.keep(items[2], None, {"state": FAILED, "reason": "r"})
    assert store.missing(items) == items[2:]
    assert store.missing(items, retry=True) == items[1:]
    assert [item for item, _ in store.recorded(items)] == items[:3]
    assert store.record(items[0])["settings"]["prompt"] == items[0].prompt


def test_a_picture_without_its_record_or_a_record_without_its_picture_is_missing(tmp_path):
    store, item = Store(tmp_path), ITEM
    store.keep(item, b"png", {"state": DONE})
    store.picture(item).unlink()
    assert store.missing([item]) == [item]
    store.picture(item).write_bytes(b"png")
    assert store.missing([item]) == []
    for text in ("{", "[]", '{"state": "else"}', "\xff"):
        store.record_path(item).write_text(text, encoding="latin-1")
        assert store.missing([item]) == [item]
    store.record_path(item).unlink()
    assert store.missing([item]) == [item]
