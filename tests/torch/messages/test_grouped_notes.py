"""Notes that say the same about many layers or places are one note; what says something else stays."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel.torch.grouped_notes import grouped  # noqa: E402


def test_layers_that_are_said_the_same_of_are_listed_once() -> None:
    notes = [f"decoder.{n}: its parametrisation (weight_norm) was baked into the weight" for n in range(33)]
    assert grouped(notes) == [
        "decoder.0, decoder.1 and 31 more: its parametrisation (weight_norm) was baked into the weight"
    ]


def test_few_notes_and_other_words_stay_as_they_are_and_in_order() -> None:
    notes = ["a: sums over 4 pixels", "b: sums over 4 pixels", "c: sums over 16 pixels", "d: is a table", "e: a note",
             "no name tells the layer", "a: sums over 4 tokens"]  # fmt: skip
    assert grouped(notes) == notes
    assert grouped([]) == []


def test_another_reason_or_another_function_is_another_note() -> None:
    notes = [f"{n}: its parametrisation ({kind}) was baked" for n in range(8) for kind in ("weight_norm", "spectral")]
    assert grouped(notes) == [
        "0, 1 and 6 more: its parametrisation (weight_norm) was baked",
        "0, 1 and 6 more: its parametrisation (spectral) was baked",
    ]


def test_numbers_that_differ_are_counted() -> None:
    places = [f"the model itself: an index takes pixel {n} of 512 pixels, as of 256" for n in range(255)]
    told = grouped(["first: a note", *places, "the model itself: an index takes pixel 3 of 512 rows"])
    assert told == [
        "first: a note",
        "the model itself: an index takes pixel 0 of 512 pixels, as of 256 (at 255 places, with other numbers at some)",
        "the model itself: an index takes pixel 3 of 512 rows",
    ]


def test_layers_with_the_same_numbers_are_grouped_before_those_with_others() -> None:
    notes = [f"s{s}.{n}: attention looks at {64 >> s} tokens instead of {16 >> s}" for s in range(2) for n in range(6)]
    assert grouped(notes) == [
        "s0.0, s0.1 and 4 more: attention looks at 64 tokens instead of 16",
        "s1.0, s1.1 and 4 more: attention looks at 32 tokens instead of 8",
    ]
    many = [f"s{s}.{n}: attention looks at {640 >> s} tokens" for s in range(5) for n in range(4)]
    assert grouped(many) == [
        "s0.0, s0.1 and 18 more: attention looks at 640 tokens (at 20 places, with other numbers at some)"
    ]


@pytest.mark.parametrize("note", [
    "the input has 3 parts and 4 pixels", "a layer, b: reads 3 pixels", "x", "", "a:b", "two words: 3 pixels",
])  # fmt: skip
def test_notes_without_the_name_of_one_layer(note: str) -> None:
    assert grouped([note]) == [note]
    named = [f"n{n}: {note}" for n in range(4)]
    assert grouped([note, *named])[0] == note


def test_the_same_note_twice_is_one() -> None:
    assert grouped(["a: b", "a: b"]) == ["a: b"]


def test_notes_of_real_networks() -> None:
    """What `rescale` says of a deep vocoder, of a scan, and of many attention layers fits on a screen."""
    torch.manual_seed(0)
    normed = nn.Sequential(*(parametrizations.weight_norm(nn.Conv1d(2, 2, 3, padding=1)) for _ in range(12)))
    attention = nn.Sequential(*(Attention() for _ in range(8)))
    for model, x in (
        (normed, torch.zeros(1, 2, 16)),
        (Scan(), torch.zeros(1, 1, 64)),
        (attention, torch.zeros(1, 8, 4, 4)),
    ):
        larger: Any = rkt.rescale(model.eval(), 2, x, mode="supersample")
        notes = larger.rekernel_plan.warnings
        assert len(grouped(notes)) <= 6
        assert grouped(grouped(notes)) == grouped(notes)


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        y, states, state = self.first(x), [], 0
        for t in range(y.shape[-1]):
            state = 0.5 * state + 0.5 * y[..., t]
            states.append(state)
        return self.last(torch.stack(states, -1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(8, 8, 3, padding=1), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
