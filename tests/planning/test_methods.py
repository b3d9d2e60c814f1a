"""A method's other names, and what each kind of weight makes of a method: one answer from every planner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.onnx.axes import image  # noqa: E402
from rekernel.onnx.layer_changes import values_change  # noqa: E402
from rekernel.planning.layers import Weight  # noqa: E402
from rekernel.planning.settings import Settings  # noqa: E402
from rekernel.resampling.methods import for_values  # noqa: E402

VALUES = {
    "bicubic": "cubic", "bilinear": "linear", "optimal": "cubic", "optimal-filter": "cubic", "dilate": "cubic",
    "pinv-linear": "linear", "area": "area",
}  # fmt: skip


class Vit(nn.Module):
    """A vision transformer with timm's names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch_embed = nn.Sequential()
        self.patch_embed.proj = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 8))
        self.blocks = nn.ModuleList([nn.Module()])
        self.blocks[0].attn = nn.Module()
        self.blocks[0].attn.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        q, k, v = self.blocks[0].attn.qkv(x).chunk(3, -1)
        return self.head((x + nn.functional.scaled_dot_product_attention(q, k, v))[:, 0])


@pytest.mark.parametrize(("asked", "used"), VALUES.items())
def test_position_embeddings_have_one_method(asked: str, used: str, tmp_path: Path) -> None:
    assert for_values(Settings(2, asked).method) == used
    graph = values_change(Weight("p", "F32", (1, 3, 4, 4)), image((1, 3, 4, 4), (2.0, 2.0)), Settings(2, asked))
    assert {o.method for o in graph.operators} == {used}
    model, x = Vit().eval(), torch.zeros(1, 3, 16, 16)
    # A pseudo-inverse is no convolution's method: as a patch embedding that grows, this one is left as it is.
    left = {"exclude": ["patch_embed.*"]} if asked.startswith("pinv") else {}
    save_file(dict(model.state_dict()), tmp_path / "in.safetensors")
    hints = rk.Hints(mode={"pos_embed": "supersample", "patch_embed.proj.weight": "supersample"})
    named = rk.plan_checkpoint(tmp_path / "in.safetensors", 2, method=asked, hints=hints, **left)
    plans = {"by name": named}
    if not left:
        plans["torch"] = rkt.rescale(model, 2, x, method=asked, modes={"patch*": "supersample"}).rekernel_plan
    assert {where: {o.method for c in p.changed if c.kind == "values" for o in c.operators}
            for where, p in plans.items()} == {where: {used} for where in plans}  # fmt: skip


@pytest.mark.parametrize("asked", ["bicubic", "bilinear"])
def test_options_name_the_canonical_method(asked: str, tmp_path: Path) -> None:
    model, used = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), VALUES[asked]
    save_file(dict(model.state_dict()), tmp_path / "in.safetensors")
    plan = rk.plan_checkpoint(tmp_path / "in.safetensors", 2, method=asked)
    traced = rkt.rescale(model, 2, torch.zeros(1, 3, 8, 8), method=asked).rekernel_plan
    assert plan.options["method"] == traced.options["method"] == used
    assert {o.method for p in (plan, traced) for c in p.changed for o in c.operators} == {used}
