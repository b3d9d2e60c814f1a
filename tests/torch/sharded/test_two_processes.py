"""A rescaled network shared out between two processes: weights equal to the bit, half of the file read, no hang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
if not torch.distributed.is_available():
    pytest.skip("this build of torch has no processes", allow_module_level=True)

from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

from .launch import run  # noqa: E402
from .networks import NETWORKS  # noqa: E402

pytestmark = pytest.mark.slow


def make_files(folder: Path) -> None:
    """Each network as a file, as a folder, and the UNet as several files with an index."""
    for name, network in NETWORKS.items():
        model = network.rescaled()
        rkt.save(model, folder / f"{name}-file.safetensors")
        (folder / f"{name}-folder").mkdir()
        rkt.save(model, folder / f"{name}-folder" / "model.safetensors")
    torch.manual_seed(0)
    unet: Any = NETWORKS["unet"].build()
    unet.save_pretrained(folder / "original", max_shard_size="40KB")
    rk.convert(folder / "original", folder / "unet-several", scale=2, preset="all")
    rkt.save(NETWORKS["conv"].rescaled(form="factored"), folder / "factored.safetensors")
    torch.manual_seed(0)
    large = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 21, 1), nn.Flatten(), nn.Linear(21 * 14 * 14, 2040))
    rkt.save(rkt.rescale(large, 2, torch.zeros(1, 3, 16, 16), check=False), folder / "large.safetensors")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("shared")
    make_files(folder)
    return run("two_processes", folder, 2)


def of(found: list[dict[str, Any]], name: str) -> list[Any]:
    """What each process found in one scenario."""
    results = [each[name] for each in found]
    assert not any(isinstance(result, str) for result in results), results
    return results


def test_weights_are_equal_to_the_bit_and_answers_to_rounding(found: Any) -> None:
    shares = []
    for result in of(found, "networks"):
        assert {"conv-file.safetensors", "conv-folder", "unet-several", "vit-folder"} <= result.keys()
        for name, seen in result.items():
            assert seen["same"] and seen["all"], name
            assert seen["off"] <= 1e-5 * seen["size"], name
        shares.append({name: seen["share"] for name, seen in result.items()})
    for name in shares[0]:
        assert sum(share[name] for share in shares) == pytest.approx(1)
        assert 0.4 < shares[0][name] < 0.65


def test_a_model_rescaled_on_meta_has_the_shapes_of_the_file_and_takes_its_weights(found: Any) -> None:
    for result in of(found, "rescaled_on_meta"):
        assert len(result) == 6
        assert all(seen == {"same": True, "shapes": True} for seen in result.values()), result


def test_blurs_survive_to_empty(found: Any) -> None:
    for off in of(found, "factored"):
        assert len(off) == 2 and max(off) < 1e-5


def test_every_axis_and_copies(found: Any) -> None:
    for result in of(found, "placements"):
        assert len(result) == 10
        assert all(equal and tied for _, _, equal, tied in result), result


def test_parts_that_are_uneven_or_empty(found: Any) -> None:
    assert of(found, "sizes_of_parts") == [[3, 1], [2, 0]]


def test_each_process_reads_half_of_the_file(found: Any) -> None:
    for result in of(found, "reading"):
        assert result["0"] == pytest.approx(0.5, abs=0.01)
        assert result["1"] == pytest.approx(0.5, abs=0.01)


def test_dtypes(found: Any) -> None:
    for result in of(found, "dtypes"):
        assert result == ["torch.float32", "torch.bfloat16", True]


def test_loading_again_after_a_pass(found: Any) -> None:
    for joined, same in of(found, "after_a_pass"):
        assert joined and same


def test_processes_save_together_what_one_saves(found: Any) -> None:
    first, second = of(found, "saving")
    for result in (first, second):
        assert result["conv"] and result["unet"] and result["vit"]
        assert "exists already" in result["exists"] and "\n" not in result["exists"]
        assert result["nowhere"] and "\n" not in result["nowhere"]
    assert second["exists"].startswith("process 0 could not save: ")


def test_refusals_in_every_process(found: Any) -> None:
    for result in of(found, "refusals"):
        assert result.pop("unchanged")
        assert all(text and "\n" not in text for text in result.values()), result
        assert "rekernel.torch.load(model, path, weights=False)" in result["original"]
        assert "was rescaled by 2" in result["scale"] and "by 3" in result["scale"]
        assert "then call fully_shard" in result["twice"] and "then call fully_shard" in result["apply"]
        assert "misses norm.running_var" in result["missing"]
        assert "misshapen five.bias [6] for [5]" in result["misshapen"]
        assert "unexpected extra" in result["unexpected"]
        assert "nowhere.safetensors" in result["nowhere"]


def test_torchs_own_reader_reads_converted_folders(found: Any) -> None:
    for result in of(found, "torchs_own_reader"):
        assert result.pop("file") != "loads"  # which is why rekernel reads files by itself
        assert result == {"conv-folder": True, "unet-folder": True, "unet-several": True}


def test_data_parallel(found: Any) -> None:
    for result in of(found, "data_parallel"):
        assert result["same"]
        for doing in ("load", "rescale"):
            assert (
                f"wrapped in DistributedDataParallel, which keeps the parameters that it was given; {doing}"
                in result[doing]
            )
        assert result["again"]
