"""A rescaled model that ends in an error on values is refused, though a pass of shapes alone went through."""

import pytest
import torch
from torch import nn

import rekernel as rk
import rekernel.torch as rkt


class TableByPosition(nn.Module):
    """Reads a table, as long as the trained grid asks for, at places that depend on the grid; `answers` many outputs
    make a pass with values so expensive that rekernel looks at shapes alone."""

    def __init__(self, way, answers=70_000):
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.table = nn.Parameter(torch.randn(15))
        self.head = nn.Linear(8, answers)

    def forward(self, x):
        x = self.conv(x)
        places = torch.arange(x.shape[-1])
        far = places[:, None] - places[None] + 7
        if self.way == "index":
            bias = self.table[far]
        elif self.way == "gather":
            bias = self.table.gather(0, far.flatten()).reshape(far.shape)
        else:
            bias = nn.functional.embedding(far, self.table[:, None])[..., 0]
        return self.head((x + bias.mean(1)).mean((2, 3)))


@pytest.mark.parametrize("way", ["index", "gather", "embedding"])
def test_it_is_refused_with_the_mode_that_works(way):
    model = TableByPosition(way).eval()
    with pytest.raises(rk.RekernelError, match="does not run") as refused:
        rkt.rescale(model, 2, torch.zeros(1, 3, 64, 64), mode="supersample")
    assert "mode='absorb'" in str(refused.value)
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        larger = rkt.rescale(model, 2, torch.zeros(1, 3, 64, 64), mode="absorb")(image)
        torch.testing.assert_close(larger, model(nn.functional.avg_pool2d(image, 2)), atol=1e-4, rtol=1e-4)
