"""What the low-resolution pass is given beside the image, argument by argument, on real diffusers networks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import UpsampleGuidance  # noqa: E402

from .conftest import VAE  # noqa: E402

F = torch.nn.functional


def matched(scheduler, t, m=2.0):
    """tau and P by the definition, from the scheduler's own table, without rekernel."""
    alpha_bar = scheduler.alphas_cumprod.double()
    snr = torch.log(alpha_bar / (1 - alpha_bar))
    tau = np.interp(-(snr[t] + 2 * np.log(m)), -snr, np.arange(len(snr)))
    return tau, alpha_bar[t] + (1 - alpha_bar[t]) / m**2


def by_hand(nets, net, x, t, noisy=None, low=None, **more):
    """The guided noise prediction, pass by pass: eps + U[eps_low/m - D eps]."""
    noisy = noisy or x.shape[1]
    tau, power = matched(nets.ddim, t)
    pooled = F.avg_pool2d(x, 2)
    pooled = torch.cat([pooled[:, :noisy] / power.sqrt(), pooled[:, noisy:]], dim=1).float()
    with torch.no_grad():
        eps = net(x, torch.tensor(t), **more).sample
        eps_low = net(pooled, torch.tensor(tau).float(), **{**more, **(low or {})}).sample
    change = F.interpolate(eps_low[:, :noisy] / 2 - F.avg_pool2d(eps[:, :noisy], 2), scale_factor=2)
    return torch.cat([eps[:, :noisy] + change, eps[:, noisy:]], dim=1)


def guided(nets, net, x, t, scheduler=None, **more):
    with UpsampleGuidance(2).attach(net, scheduler=scheduler or nets.ddim), torch.no_grad():
        return net(x, torch.tensor(t), **more).sample


def close(a, b):
    return torch.allclose(a, b, atol=2e-5)


def test_classifier_free_batch(nets):
    """A doubled batch: both halves guided, each by its own low-resolution half."""
    x, text = nets.noise(1, 3, 16, 16), nets.noise(2, 5, 8, seed=1)
    both = guided(nets, nets.unet, x.repeat(2, 1, 1, 1), 700, encoder_hidden_states=text)
    for half in (0, 1):
        one = guided(nets, nets.unet, x, 700, encoder_hidden_states=text[half : half + 1])
        assert torch.allclose(both[half : half + 1], one, atol=1e-5)
    assert close(both, by_hand(nets, nets.unet, x.repeat(2, 1, 1, 1), 700, encoder_hidden_states=text))


@pytest.mark.parametrize("as_", ["int", "float", "0-d", "one", "per sample"])
def test_every_form_of_the_time(nets, as_):
    t = {
        "int": 700, "float": 700.0, "0-d": torch.tensor(700), "one": torch.tensor([700]),
        "per sample": torch.tensor([700, 700]),
    }[as_]  # fmt: skip
    x, text = nets.noise(2, 3, 16, 16), nets.noise(2, 5, 8, seed=1)
    with UpsampleGuidance(2).attach(nets.unet, scheduler=nets.ddim), torch.no_grad():
        found = nets.unet(x, t, text, return_dict=False)
    assert isinstance(found, tuple)
    assert close(found[0], by_hand(nets, nets.unet, x, 700, encoder_hidden_states=text))


def test_a_time_for_each_sample(nets):
    x, text = nets.noise(2, 3, 16, 16), nets.noise(2, 5, 8, seed=1)
    with UpsampleGuidance(2, eta=0.5).attach(nets.unet, scheduler=nets.ddim), torch.no_grad():
        found = nets.unet(x, torch.tensor([700, 200]), text).sample
        plain = nets.unet(x, torch.tensor([200, 200]), text).sample
    assert close(found[:1], by_hand(nets, nets.unet, x[:1], 700, encoder_hidden_states=text[:1]))
    assert close(found[1:], plain[1:])  # t = 200 is past eta


def test_sdxl_sizes_of_the_low_pass_and_its_text(nets):
    unet = nets.conditioned(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=24 + 6
    )
    added = {
        "time_ids": torch.tensor([[2048.0, 1024, 128, 64, 2048, 1536]]).repeat(2, 1),
        "text_embeds": nets.noise(2, 6, seed=3),
    }
    x, text = nets.noise(2, 3, 16, 16), nets.noise(2, 5, 8, seed=1)
    with nets.inputs(unet) as seen:
        found = guided(nets, unet, x, 700, encoder_hidden_states=text, added_cond_kwargs=added)
    low = seen[1][1]["added_cond_kwargs"]
    assert low["time_ids"].tolist() == [[1024.0, 512, 64, 32, 1024, 768]] * 2
    assert low["text_embeds"] is added["text_embeds"]
    assert added["time_ids"][0, 0] == 2048  # the caller's own stay
    wanted = by_hand(
        nets, unet, x, 700, low={"added_cond_kwargs": low}, encoder_hidden_states=text, added_cond_kwargs=added
    )
    assert close(found, wanted)


def test_sizes_with_an_aesthetic_score(nets):
    """An SDXL refiner's five ids: the last one is not a size."""
    unet = nets.conditioned(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=20 + 6
    )
    added = {"time_ids": torch.tensor([[2048.0, 1024, 0, 0, 6.0]]), "text_embeds": nets.noise(1, 6)}
    x, text = nets.noise(1, 3, 16, 32), nets.noise(1, 5, 8)
    with nets.inputs(unet) as seen, UpsampleGuidance((1, 2)).attach(unet, scheduler=nets.ddim), torch.no_grad():
        unet(x, 700, text, added_cond_kwargs=added)
    assert seen[1][0][0].shape == (1, 3, 16, 16)
    assert seen[1][1]["added_cond_kwargs"]["time_ids"].tolist() == [[2048.0, 512, 0, 0, 6.0]]


@pytest.mark.parametrize(("channels", "noisy"), [(9, 4), (8, 4), (6, 3)], ids=["inpainting", "pix2pix", "superres"])
def test_channels_beside_the_noisy_ones_are_averaged_and_no_more(nets, channels, noisy):
    unet = nets.conditioned(in_channels=channels, out_channels=noisy)
    x, text = nets.noise(2, channels, 16, 16), nets.noise(2, 5, 8, seed=1)
    with nets.inputs(unet) as seen:
        found = guided(nets, unet, x, 700, encoder_hidden_states=text)
    pooled, low = F.avg_pool2d(x, 2), seen[1][0][0]
    assert torch.allclose(low[:, noisy:], pooled[:, noisy:], atol=1e-6)
    _, power = matched(nets.ddim, 700)
    assert torch.allclose(low[:, :noisy], (pooled[:, :noisy] / power.sqrt()).float(), atol=1e-6)
    assert found.shape == (2, noisy, 16, 16)
    # By hand, from what the network gives for those inputs.
    with torch.no_grad():
        eps = unet(x, 700, text).sample
        eps_low = unet(low, seen[1][0][1], text).sample
    assert close(found, eps + F.interpolate(eps_low / 2 - F.avg_pool2d(eps, 2), scale_factor=2))


def test_learned_variances_pass_untouched(nets):
    net = nets.unconditioned(out_channels=6)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    x = nets.noise(2, 3, 16, 16)
    with torch.no_grad():
        plain = net(x, 700).sample
    found = guided(nets, net, x, 700, scheduler)
    assert found.shape == (2, 6, 16, 16) and torch.equal(found[:, 3:], plain[:, 3:])
    assert not close(found[:, :3], plain[:, :3])
    assert close(found, by_hand(nets, net, x, 700, noisy=3))


def test_learned_variances_with_as_many_channels_of_conditioning(nets):
    """DeepFloyd's upscaler: six channels in and six out, of which three carry noise; only the scheduler knows."""
    net = nets.unconditioned(in_channels=6, out_channels=6)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    x = nets.noise(1, 6, 16, 16)
    with nets.inputs(net) as seen:
        guided(nets, net, x, 700, scheduler)
    assert torch.allclose(seen[1][0][0][:, 3:], F.avg_pool2d(x, 2)[:, 3:], atol=1e-6)


def test_class_labels(nets):
    net = nets.unconditioned(num_class_embeds=5)
    x, labels = nets.noise(2, 3, 16, 16), torch.tensor([1, 4])
    found = guided(nets, net, x, 700, class_labels=labels)
    assert close(found, by_hand(nets, net, x, 700, class_labels=labels))
    assert not close(found, guided(nets, net, x, 700, class_labels=labels.flip(0)))


def test_times_that_are_looked_up_in_a_table(nets):
    """nn.Embedding takes whole numbers only: tau is rounded to one."""
    net = nets.unconditioned(time_embedding_type="learned", num_train_timesteps=1000)
    x = nets.noise(2, 3, 16, 16)
    with nets.inputs(net) as seen:
        guided(nets, net, x, 700)
    tau = seen[1][1]["timestep"]
    assert tau.dtype == torch.int64 and tau.item() == round(matched(nets.ddim, 700)[0])


@pytest.mark.parametrize("size", [(16, 16), (18, 22), (15, 17)])
def test_controlnet_residuals_are_averaged_each_from_its_own_size(nets, size):
    """Documented: residuals of the large pass are reduced, the ControlNet is not run again."""
    control = diffusers.ControlNetModel.from_unet(nets.unet, conditioning_channels=3).eval()
    torch.nn.init.normal_(control.controlnet_mid_block.weight)
    for block in control.controlnet_down_blocks:
        torch.nn.init.normal_(block.weight)
    x, text = nets.noise(2, 3, *size), nets.noise(2, 5, 8, seed=1)
    with torch.no_grad():
        down, mid = control(x, 700, text, nets.noise(2, 3, *(8 * n for n in size), seed=4), return_dict=False)
    more = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    with nets.inputs(nets.unet) as seen:
        found = guided(nets, nets.unet, x, 700, encoder_hidden_states=text, **more)
    low = seen[1][1]
    assert torch.isfinite(found).all() and found.shape == x.shape
    for before, after in zip(
        (*down, mid),
        (*low["down_block_additional_residuals"], low["mid_block_additional_residual"]),
        strict=True,
    ):
        assert torch.allclose(after.mean((-2, -1)), before.mean((-2, -1)), atol=1e-4)  # an average of averages
    if size == (16, 16):
        pooled = {
            "down_block_additional_residuals": [F.avg_pool2d(r, 2) for r in down],
            "mid_block_additional_residual": F.avg_pool2d(mid, 2),
        }
        assert close(found, by_hand(nets, nets.unet, x, 700, low=pooled, encoder_hidden_states=text, **more))
        assert not close(found, guided(nets, nets.unet, x, 700, encoder_hidden_states=text))


def test_t2i_adapter_residuals_though_the_network_empties_the_list(nets):
    """UNet2DConditionModel pops them from the list that it is given: each pass needs its own."""
    adapter = diffusers.T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter"
    ).eval()
    x, text = nets.noise(2, 3, 16, 16), nets.noise(2, 5, 8, seed=1)
    with torch.no_grad():
        states = [s.repeat(2, 1, 1, 1) for s in adapter(nets.noise(1, 3, 128, 128, seed=5))]
    given = {"down_intrablock_additional_residuals": [s.clone() for s in states]}
    with nets.inputs(nets.unet) as seen:
        found = guided(nets, nets.unet, x, 700, encoder_hidden_states=text, **given)
    assert [len(kw["down_intrablock_additional_residuals"]) for _, kw in seen] == [0, 0]  # both were eaten
    with torch.no_grad():
        eps = nets.unet(x, 700, text, down_intrablock_additional_residuals=[s.clone() for s in states]).sample
        low = [F.avg_pool2d(s, 2) for s in states]
        eps_low = nets.unet(seen[1][0][0], seen[1][0][1], text, down_intrablock_additional_residuals=low).sample
    assert close(found, eps + F.interpolate(eps_low / 2 - F.avg_pool2d(eps, 2), scale_factor=2))
    assert not close(found, guided(nets, nets.unet, x, 700, encoder_hidden_states=text))


def test_ip_adapter_embeddings(nets):
    """Image embeddings have no grid: both passes are given the same."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

    unet = nets.conditioned()
    width = {"down_blocks.0": 8, "up_blocks.1": 8, "mid_block": 16}
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(6, 8, num_image_text_embeds=2)])
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    processors = {
        name: IPAdapterAttnProcessor2_0(next(w for n, w in width.items() if name.startswith(n)), 8, num_tokens=(2,))
        if "attn2" in name
        else processor
        for name, processor in unet.attn_processors.items()
    }
    unet.set_attn_processor(processors)
    x, text = nets.noise(2, 3, 16, 16), nets.noise(2, 5, 8, seed=1)
    added = {"image_embeds": [nets.noise(2, 1, 6, seed=7)]}
    found = guided(nets, unet, x, 700, encoder_hidden_states=text, added_cond_kwargs=added)
    assert close(found, by_hand(nets, unet, x, 700, encoder_hidden_states=text, added_cond_kwargs=added))
    other = {"image_embeds": [nets.noise(2, 1, 6, seed=8)]}
    assert not close(found, guided(nets, unet, x, 700, encoder_hidden_states=text, added_cond_kwargs=other))


@pytest.mark.parametrize("size", [(20, 20), (12, 28)])
def test_a_network_that_cannot_halve_odd_sizes_gets_sizes_it_can(nets, size):
    """UNet2DModel with two halvings: 20 by 2 would be 10, which does not halve twice; the nearest that does is 8."""
    net = nets.unconditioned(
        block_out_channels=(8, 8, 8), down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3
    )
    with nets.passes(net) as sizes:
        found = guided(nets, net, nets.noise(1, 3, *size), 700)
    assert sizes == [size, {(20, 20): (8, 8), (12, 28): (8, 16)}[size]]
    assert torch.isfinite(found).all()


def test_half_precision(nets):
    unet = nets.conditioned().to(torch.bfloat16)
    x, text = nets.noise(2, 3, 16, 16), nets.noise(2, 5, 8, seed=1)
    with nets.inputs(unet) as seen:
        found = guided(nets, unet, x.bfloat16(), 700, encoder_hidden_states=text.bfloat16())
    assert found.dtype == seen[1][0][0].dtype == torch.bfloat16
    wanted = guided(nets, nets.unet, x, 700, encoder_hidden_states=text)
    assert torch.allclose(found.float(), wanted, atol=0.1)


def test_networks_that_guidance_cannot_read_are_refused(nets):
    class Other(torch.nn.Module):
        def forward(self, image, sigma):
            return image

    class Flat(torch.nn.Module):
        def forward(self, sample, timestep):
            return sample

    for other in (Other(), torch.nn.Linear(2, 2), nets.made(diffusers.AutoencoderKL, **VAE)):
        with pytest.raises(rk.RekernelError, match=f"{type(other).__name__} is not a denoiser: .* Pass the pipeline"):
            UpsampleGuidance(2).attach(other, scheduler=nets.ddim)
    net = Flat()
    with (
        UpsampleGuidance(2).attach(net, scheduler=nets.ddim),
        pytest.raises(rk.RekernelError, match=r"Flat: takes no .* use guide_denoiser"),
    ):
        net(nets.noise(1, 3), 1)
    with pytest.raises(rk.RekernelError, match="DDIMScheduler is neither a diffusers pipeline"):
        UpsampleGuidance(2).attach(nets.ddim)
