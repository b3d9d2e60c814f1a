"""Crops of pictures, and what a missing package says. No test needs the packages."""

import photographs
import pytest
import torch


def picture(height: int, width: int) -> torch.Tensor:
    """A picture whose pixels hold their own place: row in channel 0, column in channel 1."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).float()


def test_crops_are_seeded_whole_and_from_each_picture_in_turn():
    sources = {"a": picture(20, 30), "b": picture(25, 16) + 100}
    drawn = photographs.crops(sources, 40, 3, side=16)
    assert drawn.shape == (40, 3, 16, 16)
    assert torch.equal(drawn, photographs.crops(sources, 40, 3, side=16))
    assert not torch.equal(drawn, photographs.crops(sources, 40, 4, side=16))
    assert ((drawn[:, 0].amin((1, 2)) >= 100) == (torch.arange(40) % 2 == 1)).all()
    steps = drawn[:, 1, 0].diff(dim=1)
    mirrored = (steps == -1).all(1)
    assert ((steps == 1).all(1) | mirrored).all() and 8 <= mirrored.sum() <= 32


def test_the_margin_holds_the_pixels_further_right_and_down_and_repeats_the_last():
    drawn = photographs.crops({"a": picture(16, 16)}, 8, 0, side=16, margin=2)
    for crop in drawn:
        columns = crop[1, 0]
        assert columns[:16].tolist() in (list(range(16)), list(range(15, -1, -1)))
        assert (columns[16:] == columns[15]).all() and crop[0, :, 0].tolist() == [*range(16), 15, 15]


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(photographs.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match=r"scikit-image.*missing(.|\n)*pip install --no-deps --target DIR"):
        photographs.package_folder("skimage")


def test_a_folder_of_packages_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="not a folder"):
        photographs.use_packages(tmp_path / "nowhere")
