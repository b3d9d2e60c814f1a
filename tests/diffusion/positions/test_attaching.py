"""Where positions can be attached, beside what, and that nothing stays behind."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from torch._dynamo.utils import counters  # noqa: E402

import rekernel as rk  # noqa: E402
from rekernel.diffusion import RescaledPositions, UpsampleGuidance  # noqa: E402
from rekernel.diffusion.denoiser.pass_context import running  # noqa: E402

from .families import FAMILIES, FLOW  # noqa: E402


@pytest.fixture(scope="module")
def made():
    kept = {}
    return lambda name: kept[name] if name in kept else kept.setdefault(name, FAMILIES[name].made())


@pytest.mark.parametrize("method", ["ntk", "yarn", "dype"])
def test_a_table_knows_interpolation_alone(made, method):
    said = f"SD3Transformer2DModel: method='{method}' needs rotary positions, and this network has a table"
    with pytest.raises(rk.RekernelError, match=said):
        RescaledPositions(2, method).attach(made("sd3"), scheduler=FLOW)
    with RescaledPositions(2).attach(made("sd3"), scheduler=FLOW) as positions:
        positions.method = method
        with pytest.raises(rk.RekernelError, match=said):
            FAMILIES["sd3"].run(made("sd3"), 2)


def test_the_enlarged_table_is_the_trained_crop_at_the_centres_of_its_tokens(made):
    """A table that is linear in row and column stays linear."""
    net = made("sd3")
    table, size = net.pos_embed.pos_embed, 40
    rows = torch.arange(size, dtype=torch.float32)[:, None].expand(size, size)
    linear = torch.stack([rows, rows.T] + [torch.zeros(size, size)] * (table.shape[-1] - 2), dim=-1)
    try:
        net.pos_embed.pos_embed = linear.reshape(1, size * size, -1)
        seen = []
        with RescaledPositions((2, 1)).attach(net, scheduler=FLOW):
            handle = net.pos_embed.register_forward_hook(
                lambda m, args, out: seen.append(out - m.proj(args[0]).flatten(2).transpose(1, 2))
            )
            try:
                FAMILIES["sd3"].run(net, (2, 1))
            finally:
                handle.remove()
    finally:
        net.pos_embed.pos_embed = table
    found = seen[0].reshape(16, 8, -1)
    inside = (torch.arange(16) + 0.5) / 2 - 0.5 + 16  # of the crop of 8 rows that begins with row 16
    assert torch.allclose(found[3:-3, :, 0], inside[3:-3, None].expand(-1, 8), atol=1e-4)
    assert torch.allclose(found[..., 1], torch.arange(16.0, 24.0).expand(16, 8), atol=1e-4)


def test_networks_without_known_positions_are_refused(nets):
    with pytest.raises(rk.RekernelError, match=r"UNet2DConditionModel: has no positions .* use SupersampledKernels"):
        RescaledPositions(2).attach(nets.unet, scheduler=nets.ddim)
    sana = nets.made(
        diffusers.SanaTransformer2DModel, sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=4,
        cross_attention_dim=8, caption_channels=8,
    )  # fmt: skip
    with pytest.raises(rk.RekernelError, match=r"Sana.*: has no positions .* SupersampledKernels would not act"):
        RescaledPositions(2).attach(sana, scheduler=FLOW)


def test_fused_projections_without_a_norm_are_refused(made):
    family, net = FAMILIES["sd3"], FAMILIES["sd3"].made()
    net.fuse_qkv_projections()
    with RescaledPositions(2).attach(net, scheduler=FLOW) as positions:
        with pytest.raises(rk.RekernelError, match=r"call unfuse_qkv_projections\(\), or pass temperature=False"):
            family.run(net, 2)
        positions.temperature = 0.0
        assert family.run(net, 2).isfinite().all()


def test_no_two_at_once_and_guidance_stays_outermost(made):
    family, net = FAMILIES["flux"], made("flux")
    before = dict(vars(net))
    one, other = RescaledPositions(2, "yarn"), RescaledPositions(2)
    guidance = UpsampleGuidance(2, eta=1.0)
    with one.attach(net, scheduler=FLOW):
        with pytest.raises(rk.RekernelError, match=r"has RescaledPositions|has PositionSettings"):
            other.attach(net, scheduler=FLOW)
        with guidance.attach(net, scheduler=FLOW):
            first = family.run(net, 2)
    assert dict(vars(net)) == before
    guidance.attach(net, scheduler=FLOW)
    with one.attach(net, scheduler=FLOW):
        assert torch.equal(family.run(net, 2), first)
        guidance.remove()
        assert not torch.equal(family.run(net, 2), first)
    assert dict(vars(net)) == before


def test_auto_compares_with_the_trained_size(made):
    """As in a cascade, where one and the same object sees calls of several sizes."""
    family, net = FAMILIES["lumina 2"], made("lumina 2")
    small = family.run(net)
    wanted = []
    for scale in (2, 3):
        with RescaledPositions(scale, "yarn").attach(net, scheduler=FLOW):
            wanted.append(family.run(net, scale))
    with RescaledPositions("auto", "yarn").attach(net, scheduler=FLOW):
        assert torch.equal(family.run(net), small)
        assert all(torch.equal(family.run(net, scale), found) for scale, found in zip((2, 3), wanted, strict=True))


def test_the_trained_size_of_a_pipeline_whose_network_has_none(made):
    net = made("flux")
    parts = {"vae": None, "text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    pipe = diffusers.FluxPipeline(**parts, transformer=net, scheduler=FLOW)
    pipe.default_sample_size = 16  # 128 for the published models
    with RescaledPositions(2, "ntk").attach(net, scheduler=FLOW):
        wanted = FAMILIES["flux"].run(net, 2)
    with RescaledPositions("auto", "ntk").attach(pipe):
        assert torch.equal(FAMILIES["flux"].run(net, 2), wanted)
    with pytest.raises(rk.RekernelError, match="its config has no sample_size for scale='auto'; pass a number"):
        RescaledPositions("auto").attach(net, scheduler=FLOW)


def test_an_exception_in_a_call_leaves_nothing_behind(made):
    family, net = FAMILIES["flux"], made("flux")
    before = {path: dict(vars(m)) for path, m in net.named_modules()}
    handle = net.proj_out.register_forward_pre_hook(lambda *_args: 1 / 0)
    try:
        with RescaledPositions(2).attach(net, scheduler=FLOW), pytest.raises(ZeroDivisionError):
            family.run(net, 2)
    finally:
        handle.remove()
    assert {path: dict(vars(m)) for path, m in net.named_modules()} == before


def test_half_precision(made):
    family, net = FAMILIES["flux"], FAMILIES["flux"].made().to(torch.bfloat16)
    exact = made("flux")

    def call(module, x, t):
        return family.call(module, x, t)

    with RescaledPositions(2, "yarn").attach(exact, scheduler=FLOW):
        wanted = family.run(exact, 2)
    with RescaledPositions(2, "yarn").attach(net, scheduler=FLOW), torch.autocast("cpu", torch.bfloat16):
        found = family.run(net, 2)
    assert torch.isfinite(found).all() and (found.float() - wanted).abs().mean() < 0.1 * wanted.abs().mean()


def test_calls_in_inference_mode_and_outside(made):
    family, net = FAMILIES["flux"], made("flux")
    with RescaledPositions(2, "dype").attach(net, scheduler=FLOW):
        with torch.inference_mode():
            first = family.run(net, 2)
        family.run(net, 2, t=0.7)
        assert torch.equal(family.run(net, 2), first)


@pytest.mark.slow
def test_a_compiled_network_is_compiled_once_for_each_size(made):
    """The hook lies outside the compiled code, and what it lends is kept, though the frequencies of 'dype' move."""
    family, net = FAMILIES["flux"], FAMILIES["flux"].made()
    times = (0.9, 0.4)
    plain = family.run(net)
    with RescaledPositions(2, "dype").attach(net, scheduler=FLOW):
        wanted = [family.run(net, 2, t=t) for t in times]
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(net, backend="eager")
    try:
        with RescaledPositions(2, "dype").attach(compiled, scheduler=FLOW):
            for _ in range(2):
                for t, found in zip(times, wanted, strict=True):
                    assert torch.allclose(family.run(compiled, 2, t=t), found, atol=1e-5)
                with running((2.0, 2.0)):  # the low-resolution pass of guidance
                    assert torch.allclose(family.run(compiled), plain, atol=1e-5)
        assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    finally:
        torch._dynamo.reset()
