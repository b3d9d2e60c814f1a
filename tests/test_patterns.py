"""Patterns choose tensors: globs across dots, regular expressions for whole names, an error where nothing matches."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekernel import RekernelError
from rekernel.patterns import layer_of, matcher, select

NAMES = (
    "conv_in.weight",
    "conv_in.bias",
    "down_blocks.0.resnets.0.conv1.weight",
    "down_blocks.1.resnets.0.conv1.weight",
    "down_blocks.10.resnets.0.conv1.weight",
    "mid_block.norm.weight",
    "odd[0].weight",
    "pos_embed",
)
PARTS = st.lists(st.text("abc01_[]*?.", min_size=1, max_size=6), min_size=1, max_size=3).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("conv_in.weight", {"conv_in.weight"}),
        ("conv_in", {"conv_in.weight", "conv_in.bias"}),
        ("*", set(NAMES)),
        ("down_blocks.1.*", {NAMES[3]}),
        ("down_blocks.?.*", {NAMES[2], NAMES[3]}),
        ("down_blocks.[01].*", {NAMES[2], NAMES[3]}),
        ("*.conv1", {NAMES[2], NAMES[3], NAMES[4]}),
        ("*conv1*", {NAMES[2], NAMES[3], NAMES[4]}),
        ("odd[0]", {"odd[0].weight"}),
        ("odd[0].weight", {"odd[0].weight"}),
        ("re:down_blocks\\.1\\..*", {NAMES[3]}),
        ("re:.*\\.(weight|bias)", set(NAMES) - {"pos_embed"}),
        ("re:pos_embed", {"pos_embed"}),
        ("re:conv_in", {"conv_in.weight", "conv_in.bias"}),
    ],
)
def test_a_pattern_selects_exactly_these(pattern, expected):
    assert select(NAMES, [pattern], "include") == expected


def test_a_regular_expression_has_to_match_the_whole_name():
    with pytest.raises(RekernelError, match=r"re:conv matches no tensor"):
        select(NAMES, ["re:conv"], "include")


def test_upper_and_lower_case_differ():
    with pytest.raises(RekernelError, match="CONV_IN"):
        select(NAMES, ["CONV_IN*"], "include")


@given(st.lists(PARTS, min_size=1, max_size=8, unique=True), st.data())
def test_every_name_selects_itself_whatever_characters_it_holds(names, data):
    name = data.draw(st.sampled_from(names))
    assert name in select(names, [name], "include")
    assert name in select(names, ["re:" + re.escape(name)], "include")


@given(st.lists(PARTS, min_size=1, max_size=8, unique=True), st.lists(PARTS, min_size=1, max_size=3))
def test_several_patterns_select_the_union_of_each_alone(names, patterns):
    expected = {
        name
        for name in names
        for p in patterns
        if name == p or layer_of(name) == p or any(fnmatch.fnmatchcase(n, p) for n in (name, layer_of(name)))
    }
    idle = [p for p in patterns if not any(matcher(p)(name) for name in names)]
    if idle:
        with pytest.raises(RekernelError, match="matches no tensor"):
            select(names, patterns, "include")
    else:
        assert select(names, patterns, "include") == expected


@given(st.text(min_size=1).filter(lambda p: not p.startswith("re:")))
def test_no_glob_is_a_broken_pattern(pattern):
    matcher(pattern)("down_blocks.0.weight")


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("down_blocks.0.resnets.0.conv2.weight", "down_blocks.0.resnets.0.conv1.weight"),
        ("conv_im", "conv_in"),
        ("midblock.norm*", "mid_block.norm*"),
        ("re:pos_embedd", "re:pos_embed"),
        ("down_bloks.*", "down_blocks.*"),
        ("*.resnts.*", "*.resnets.*"),
    ],
)
def test_a_pattern_without_a_match_is_refused_with_a_near_name(pattern, near):
    with pytest.raises(RekernelError) as caught:
        select(NAMES, ["*", pattern], "--include")
    message = str(caught.value)
    assert message.startswith("--include: pattern") and pattern in message
    assert near in message.partition("near: ")[2].split(", ")


def test_without_a_near_name_the_message_says_where_names_are_listed():
    with pytest.raises(RekernelError, match=r"zzz matches no tensor of 8, such as \S+, \S+, \S+ and 5 more$") as caught:
        select(NAMES, ["zzz"], "exclude")
    assert caught.value.on_command_line().endswith("; `rekernel inspect SOURCE --tensors` lists them")


@pytest.mark.parametrize(("pattern", "words"), [("", "empty pattern"), ("re:(", r"re:\( is not a regular expression")])
def test_a_pattern_that_is_none_is_refused(pattern, words):
    with pytest.raises(RekernelError, match=words):
        select(NAMES, [pattern], "include")


def test_hostile_patterns_and_names_are_inert_in_the_message():
    hostile = "\x1b[2Jevil\n\u202e.weight"
    for names, pattern in (([hostile], "\x1b[2Jevi\n\u202e.weight"), (NAMES, hostile)):
        with pytest.raises(RekernelError) as caught:
            select(names, [pattern], "include")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "layer"),
    [("a.b.weight", "a.b"), ("a.bias", "a"), ("a.kernel", "a"), ("weight", "weight"), ("a.weight_v", "a.weight_v")],
)
def test_a_layer_is_its_tensors_name_without_the_last_part(name, layer):
    assert layer_of(name) == layer


def test_nothing_asked_for_selects_nothing():
    assert select(NAMES, [], "exclude") == set()
