"""Pictures to start from: which one goes with which prompt, and every form in which people hold a picture."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")
pil = pytest.importorskip("PIL.Image")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade  # noqa: E402
from rekernel.diffusion.cascade.start_picture import as_picture, with_channels  # noqa: E402


def seeded():
    return torch.Generator().manual_seed(0)


def test_each_picture_goes_with_its_prompt(sd):
    """Two prompts, two pictures, two images for each prompt: pipelines repeat a prompt before the next one."""
    pictures = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    options = {"num_inference_steps": 8, "num_images_per_prompt": 2, "guidance_scale": 1.0, "output_type": "latent"}
    starts = []
    sd.unet.register_forward_pre_hook(lambda _m, args: starts.append(args[0].clone()))
    GuidedCascade(sd, [16, 32], strength=0.125, guidance=False)(["a cat", "a dog"], image=pictures, **options)
    coded = sd.vae.encode(pictures * 2 - 1).latent_dist.mode() * sd.vae.config.scaling_factor
    sd.scheduler.set_timesteps(8)
    alpha = sd.scheduler.alphas_cumprod[sd.scheduler.timesteps[-1]]
    rest = [[(start - alpha**0.5 * latents).std() for latents in coded] for start in starts[0]]
    assert [min((0, 1), key=each.__getitem__) for each in rest] == [0, 0, 1, 1]


RAMP = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)
BYTES, WORDS = (RAMP * 255).round().astype(np.uint8), (RAMP * 65535).round().astype(np.uint16)
GREY = {
    "8 bits": pil.fromarray(BYTES), "16 bits": pil.fromarray(WORDS), "32 bits": pil.fromarray(WORDS.astype(np.int32)),
    "floats": pil.fromarray(RAMP), "with alpha": pil.merge("LA", [pil.fromarray(BYTES), pil.new("L", (4, 4), 9)]),
    "array": RAMP, "array of bytes": BYTES, "array of words": WORDS, "other byte order": WORDS.astype(">u2"),
    "doubles": RAMP.astype(np.float64), "tensor": torch.from_numpy(RAMP), "tensor of words": torch.from_numpy(WORDS),
    "array with alpha": np.stack([RAMP, 1 - RAMP], -1), "half": torch.from_numpy(RAMP).half()[None],
}  # fmt: skip


@pytest.mark.parametrize("given", GREY.values(), ids=GREY)
def test_a_grey_picture(given):
    found = with_channels(as_picture(given), 3)
    assert found.shape == (1, 3, 4, 4)
    assert np.abs(found[0].numpy() - RAMP).max() < 0.003


@pytest.mark.parametrize("alpha", [False, True])
def test_colours(alpha):
    array = np.dstack([COLOURS, RAMP]) if alpha else COLOURS
    picture = pil.fromarray((array * 255).round().astype(np.uint8))
    for given in (array, picture, torch.from_numpy(array.transpose(2, 0, 1))):
        found = with_channels(as_picture(given), 3)[0].numpy()
        assert np.abs(found - COLOURS.transpose(2, 0, 1)).max() < 0.003
        grey = with_channels(as_picture(given), 1)[0, 0].numpy() * 255
        assert np.abs(grey - np.asarray(picture.convert("RGB").convert("L"))).max() < 1.1
    flag = np.array([[True, False]])
    assert as_picture(flag).tolist() == as_picture(pil.fromarray(flag)).tolist() == [[[[1.0, 0.0]]]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (COLOURS * 255, r"values from 0 to 255, and a picture has values in \[0, 1\]; divide it by 255"),
        (COLOURS * 2 - 1, r"values from -1 to 1.*; from -1 to 1, give image / 2 \+ 0.5"),
        (torch.randn(1, 4, 8, 8, generator=seeded()) * 3, "decode latents first"),
        (COLOURS * np.nan, "some values are not finite"),
        (COLOURS.astype(np.int64), "torch.int64 is not a picture"),
        (COLOURS.astype(complex), "an array of complex128 is not a picture"),
        (pil.fromarray(np.full((4, 4), 70000, np.int32)), "values from 70000 to 70000 are not those of 16 bits"),
        ([], "the list of pictures is empty"),
        ("cat.png", "a str is not a picture"),
        (torch.from_numpy(np.dstack([RAMP] * 5)).movedim(-1, 0), "has 5 channels, and the model takes 3"),
    ],
    ids=range(10),
)
def test_what_is_not_a_picture(given, said):
    with pytest.raises(rk.RekernelError, match=said):
        with_channels(as_picture(given), 3)


def test_a_cascade_takes_the_channels_of_its_autoencoder_and_of_a_network_of_pixels(sd, nets):
    grey = pil.fromarray((np.eye(16) * 255).astype(np.uint8))
    options = {"num_inference_steps": 4, "output_type": "np", "generator": seeded()}
    assert GuidedCascade(sd, [16, 32])("a cat", image=grey, **options).images.shape == (1, 32, 32, 3)
    net = nets.unconditioned(in_channels=1, out_channels=1)
    cascade = GuidedCascade(net, [8, 16], scheduler=nets.ddim, guidance=False)
    assert cascade(1, 4, start=grey.convert("RGB").resize((8, 8)))[0].shape == (1, 1, 16, 16)
