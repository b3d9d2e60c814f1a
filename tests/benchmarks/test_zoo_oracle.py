"""The oracle of benchmarks/zoo: it calls right networks right and wrong ones wrong, whatever the plan says."""

import copy

import pytest
import torch
from architecture import Architecture, first_tensor
from measure import _compared, _short, measure, silent
from probes import distance, growth, matched, moved_back, reduced, rough, smooth
from torch import nn
from weights import gates, revive, settle


def classifier():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def segmenter():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))


@pytest.mark.parametrize(("build", "exact"), [(classifier, True), (segmenter, False)])
def test_a_rescaled_network_is_called_right(build, exact):
    row = measure(Architecture(build, (3, 32, 32)))
    assert (row["default"]["outcome"] == "exact") is exact
    assert row["supersample"]["error"] < 0.15
    assert not silent(row, "default")
    assert not silent(row, "supersample")


def answers(network, net):
    """Of the original on the reduced probes, or of a network on the large ones."""
    size = [2 * n for n in net.size]
    probes = {"smooth": smooth(2, 3, size, 1), "rough": rough(2, 3, size, 2)}
    with torch.no_grad():
        return {k: network(x) for k, x in probes.items()}, {k: reduced(x, net.scales) for k, x in probes.items()}


@pytest.mark.parametrize("fault", ["untouched kernels", "four times too large"])
def test_a_wrong_network_is_called_silently_wrong(fault):
    torch.manual_seed(0)
    net = Architecture(classifier, (3, 32, 32))
    network = revive(net.build())
    settle(network, [(smooth(4, 3, net.size, seed),) for seed in (1, 2)])
    wrong = copy.deepcopy(network)
    if fault == "four times too large":
        wrong[-1].weight.data *= 4
    found, probes = answers(wrong, net)
    with torch.no_grad():
        expected = {name: network(x) for name, x in probes.items()}
    verdict = _compared(net, found, expected) | {"notes": []}
    assert verdict["outcome"] == "approximate"
    if fault == "four times too large":
        assert silent({"moved": 0.0, "default": verdict}, "default")
        assert not silent({"moved": 0.0, "default": verdict | {"notes": ["said"]}}, "default")


def test_an_output_of_another_shape_needs_a_note():
    verdict = _compared(Architecture(segmenter, (3, 8, 8)), dict.fromkeys(("smooth", "rough"), torch.zeros(2, 3, 11, 11)),
                        dict.fromkeys(("smooth", "rough"), torch.ones(2, 3, 8, 8)))  # fmt: skip
    assert verdict["error"] is None
    assert silent({"moved": 0.0, "default": verdict | {"notes": []}}, "default")


@pytest.mark.parametrize("size", [(12,), (8, 8), (4, 6, 8)])
def test_a_smooth_picture_is_the_same_at_every_size(size):
    small, large = smooth(2, 3, size, 5), smooth(2, 3, [2 * n for n in size], 5)
    assert distance(reduced(large, [2] * len(size)), small) < 0.01


def test_tokens_are_averaged_on_their_grid_behind_those_in_front():
    old = torch.randn(2, 1 + 6, 5)
    (grown,) = growth((2, 1 + 24, 5), (2, 7, 5), (2, 2), (2, 3))
    assert grown.ahead == 1
    tokens = old[:, 1:].unflatten(1, (2, 3))
    large = torch.cat([old[:, :1], tokens.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)], 1)
    torch.testing.assert_close(matched(large, [grown]), old)


def test_an_axis_that_does_not_grow_is_left_and_a_strange_one_is_not_guessed():
    assert growth((2, 4, 3, 16, 16), (2, 4, 3, 8, 8), (1, 2, 2))[0].axis == 3
    assert growth((2, 9), (2, 8), (2, 2)) is None
    assert growth((2, 8), (2, 8, 8), (2, 2)) is None


def test_an_answer_is_moved_back_by_as_much_as_its_picture_was():
    picture = torch.randn(1, 2, 16, 16)
    grown = growth((1, 2, 32, 32), (1, 2, 16, 16), (2, 2))
    torch.testing.assert_close(moved_back(picture.roll((2, 2), (2, 3)), grown, 1 / 8), picture)


def test_gates_are_what_reads_a_pooled_image_and_is_not_the_answer():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.head((x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3)))

    net = Gated()
    found = gates(net, (torch.zeros(1, 3, 8, 8),))
    assert [t.data_ptr() for t in found] == [p.data_ptr() for p in net.gate.parameters()]


def test_the_first_tensor_of_a_result_is_found_wherever_it_lies():
    assert first_tensor({"loss": None, "more": (3, [torch.ones(2)])}).tolist() == [1, 1]
    with pytest.raises(TypeError):
        first_tensor(["none"])


def test_a_number_keeps_three_places():
    assert _short(0.123456) == 0.123
