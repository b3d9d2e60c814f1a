"""The U-Net's file, its training, and the rows of the segmentation table, without data."""

import segmentation
import segmentation_unet as unet
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

CLASSES = 11


def test_a_file_holds_the_network_in_half_precision_and_stays_below_a_megabyte(tmp_path):
    torch.manual_seed(0)
    model = unet.UNet(CLASSES).eval()
    unet.save(model, tmp_path / "net.safetensors")
    again = unet.load(tmp_path / "net.safetensors", CLASSES)
    x = torch.rand(2, 1, 48, 48)
    assert (tmp_path / "net.safetensors").stat().st_size < 1_000_000
    assert all(p.dtype == torch.float32 for p in again.parameters()) and not again.training
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=5e-3)
        assert not torch.equal(again(x), model(x))  # float16 was rounded


def test_training_is_seeded_and_learns_bright_from_dark():
    def draw(step):
        pictures = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(step))
        return pictures, (pictures[:, 0] > 0.5).long()

    def trained(seed, steps):
        return unet.train(draw, 2, steps=steps, seed=seed, say=lambda _text: None)

    one, same, other = (trained(seed, 2).head.weight for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    model, (pictures, truth) = trained(0, 30), draw(-1)
    with torch.no_grad():
        assert (model(pictures).argmax(1) == truth).double().mean() > 0.8


def test_every_row_that_all_sets_have_gives_logits_of_the_new_size():
    torch.manual_seed(0)
    model = unet.UNet(CLASSES).eval()
    x = torch.rand(1, 1, 96, 96)
    rows = {name: network for _, name, network in segmentation.candidates(model, every=False)}
    assert {"default", "untouched"} | segmentation.FURTHER < set(rows)
    with torch.inference_mode():
        assert all(network(x).shape == (1, CLASSES, 96, 96) for network in rows.values())
        rival = rows["picture reduced, logits enlarged (bilinear)"](x)
        torch.testing.assert_close(F.avg_pool2d(rival, 96), F.avg_pool2d(model(F.avg_pool2d(x, 2)), 48))


def test_a_score_is_the_mean_iou_over_all_scenes_together():
    truth = torch.tensor([[[0, 0], [1, 1]], [[0, 1], [1, 1]]])
    named = torch.tensor([[[0, 1], [1, 1]], [[0, 1], [1, 1]]])
    logits = F.one_hot(named, CLASSES).movedim(-1, 1).float()
    found = segmentation.score(lambda part: logits[: len(part)], logits, truth)
    assert found == (2 / 3 + 5 / 6) / 2
