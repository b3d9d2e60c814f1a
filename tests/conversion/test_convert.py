"""Conversion of one file: what changes equals the library's own answer, what does not is copied to the byte."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import pytest
import safetensors
import safetensors.numpy

from rekernel import Hints, Plan, Recipe, RekernelError, convert, estimate, inspect, plan_checkpoint, resample_conv
from rekernel.checkpoint.header import build_header
from rekernel.checkpoint.shard import shard_of_file

torch = pytest.importorskip("torch")
import safetensors.torch as st  # noqa: E402 - needs torch

from rekernel.torch import rescale  # noqa: E402

from ..numeric import assert_bits, assert_ulps  # noqa: E402

SEED = 11
SUPERSAMPLE = {"mode": "supersample", "method": "optimal"}


def random(*shape, dtype=torch.float32, seed=SEED):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network(dtype=torch.float32):
    """Every kind of tensor: rescaled ones, and others that have to survive."""
    return {
        "a.weight": random(130, 64, 3, 3, dtype=dtype),  # several pieces
        "a.bias": random(130, dtype=dtype),
        "b.weight": random(8, 1, 5, 5, dtype=dtype, seed=2),
        "point.weight": random(16, 8, 1, 1, dtype=dtype),
        "q.f8": random(4, 4, dtype=torch.float32).to(torch.float8_e4m3fn),
        "q.f8b": random(3, dtype=torch.float32).to(torch.float8_e5m2),
        "steps": torch.arange(5),
        "flag": torch.tensor([True, False, True]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "nothing": torch.zeros(0, 4, 3, 3, dtype=dtype),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
        "odd\nname.weight": random(2, 2, 3, 3, dtype=dtype),
    }


METADATA = {"format": "pt", "note": "ü\x1b[2J", "a": "", "modelspec.title": "x" * 300}


@pytest.fixture
def source(tmp_path):
    def write(tensors=None, metadata=METADATA, name="in.safetensors"):
        st.save_file(network() if tensors is None else tensors, tmp_path / name, metadata)
        return tmp_path / name

    return write


def raw(path):
    """Bytes of every tensor, read without any of our code but the header's."""
    header, data = shard_of_file(path).header, path.read_bytes()
    return {i.name: data[header.data_start + i.start : header.data_start + i.end] for i in header.tensors.values()}


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("method", ["optimal", "cubic", "linear", "dilate"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_each_tensor_equals_the_librarys_answer(dtype, method, source, tmp_path):
    tensors = network(getattr(torch, dtype))
    path, target = source(tensors), tmp_path / "out.safetensors"
    report = convert(path, target, scale=2, method=method)
    out = st.load_file(target)
    assert set(out) == set(tensors)
    changed = {"a.weight", "b.weight", "odd\nname.weight"}
    assert {c.name for c in report.plans[""].changed} == changed
    for name, before in tensors.items():
        if name in changed:
            expected = resample_conv(before, 2, method)
            assert out[name].dtype == before.dtype and out[name].shape == expected.shape
            # Another engine and other pieces add up in another order; `dilate` adds up nothing.
            same = assert_bits if method == "dilate" else assert_ulps
            same(out[name], expected, what=name)
            if dtype != "bfloat16":
                same(out[name].numpy(), resample_conv(before.numpy(), 2, method), what=name)
    before, after = raw(path), raw(target)
    assert {name: data for name, data in after.items() if name not in changed} == {
        name: data for name, data in before.items() if name not in changed
    }


def test_a_strided_convolution_is_resampled_with_the_phase_of_its_geometry(source, tmp_path):
    path = source({"a.weight": random(8, 4, 3, 3)})
    convert(path, tmp_path / "out.safetensors", scale=2, taps=5, hints=Hints(stride={"a": 2}), **SUPERSAMPLE)
    expected = resample_conv(random(8, 4, 3, 3).numpy(), 2, taps=5, phase=0.5)
    assert_ulps(st.load_file(tmp_path / "out.safetensors")["a.weight"].numpy(), expected)


def test_the_file_reads_back_with_every_reader_and_is_laid_out_as_upstream_would(source, tmp_path):
    target = tmp_path / "out.safetensors"
    convert(source(), target, scale=2)
    with safetensors.safe_open(target, "pt") as opened:
        assert set(opened.keys()) == set(network())
        metadata = opened.metadata()
        assert opened.get_tensor("a.weight").shape == (130, 64, 5, 5)
    upstream = [info["data_offsets"] for _, info in sorted(json_header(st.save(st.load_file(target))).items())]
    ours = json_header(target.read_bytes())
    del ours["__metadata__"]
    assert [info["data_offsets"] for _, info in sorted(ours.items())] == upstream
    assert metadata is not None


def json_header(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])


def test_metadata_and_keys_are_kept_exactly_and_one_entry_is_added(source, tmp_path):
    path, target = source(), tmp_path / "out.safetensors"
    convert(path, target, scale=2)
    header = shard_of_file(target).header
    assert {k: v for k, v in header.metadata.items() if k != "rekernel"} == METADATA
    assert set(header.tensors) == set(network())
    recipe = Recipe.from_json(header.metadata["rekernel"])
    assert [(s.nbytes, s.sha256) for s in recipe.sources] == [
        (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    ]
    assert recipe.plan.changes == plan_checkpoint(path, 2).changed
    assert recipe == inspect(target).recipe and recipe.tool.startswith("rekernel ")
    for change in recipe.plan.changes:
        assert header.tensors[change.name].shape == change.new_shape


def test_a_file_without_metadata_gets_the_recipe_and_the_format_it_was_taken_for(source, tmp_path):
    # transformers takes a file without metadata for PyTorch's, and refuses one with metadata but no format.
    convert(source(metadata=None), tmp_path / "out.safetensors", scale=2)
    metadata = shard_of_file(tmp_path / "out.safetensors").header.metadata
    assert sorted(metadata) == ["format", "rekernel"]
    assert metadata["format"] == "pt"


def test_the_same_source_and_options_give_the_same_bytes_anywhere(source, tmp_path, monkeypatch):
    path = source(network(torch.float16))
    reference = tmp_path / "out.safetensors"
    convert(path, reference, scale=(2, 1.5), dtype="bf16")
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    (elsewhere / "renamed.safetensors").write_bytes(path.read_bytes())
    for run, count in enumerate((1, 2, 3, 7)):
        monkeypatch.setattr(os, "cpu_count", lambda n=count: n)
        convert("renamed.safetensors", f"{run}.safetensors", scale=(2, 1.5), dtype="bf16")
        assert (elsewhere / f"{run}.safetensors").read_bytes() == reference.read_bytes()
    convert("renamed.safetensors", "plan.safetensors", plan=plan_checkpoint(path, (2, 1.5)), dtype="bf16")
    assert (elsewhere / "plan.safetensors").read_bytes() == reference.read_bytes()


KINDS = {"fp16": torch.float16, "bfloat16": torch.bfloat16, "F32": torch.float32, "double": torch.float64}


@pytest.mark.parametrize("before", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("spelling", KINDS)
def test_dtype_casts_every_float_once_and_nothing_else(before, spelling, source, tmp_path):
    wanted, tensors = KINDS[spelling], network(getattr(torch, before))
    path, target = source(tensors), tmp_path / "out.safetensors"
    convert(path, target, scale=2, dtype=spelling, **SUPERSAMPLE)
    out = st.load_file(target)
    for name, old in tensors.items():
        if not old.is_floating_point() or old.dtype.itemsize == 1:
            assert out[name].dtype == old.dtype and raw(target)[name] == raw(path)[name]
            continue
        assert out[name].dtype == wanted
        expected = old
        if out[name].shape != old.shape and old.dtype != wanted:
            wide = old.to(torch.float64 if before == "float64" else torch.float32)
            expected = torch.from_numpy(resample_conv(wide.numpy(), 2))
        elif out[name].shape != old.shape:
            continue  # no cast: the test above
        # Rounded once: exact, but for float64, which torch itself rounds to half precision in two steps.
        exact = before != "float64"
        rtol = 0 if exact else torch.finfo(wanted).eps
        torch.testing.assert_close(out[name], expected.to(wanted), rtol=rtol, atol=0 if exact else 1e-7)
    recipe = Recipe.from_json(shard_of_file(target).header.metadata["rekernel"])
    assert recipe.dtype == {"fp16": "F16", "bfloat16": "BF16", "F32": "F32", "double": "F64"}[spelling]


def test_a_value_beyond_float16_is_refused_by_name_and_nothing_is_left(source, tmp_path):
    big = {"a.weight": random(4, 4, 3, 3), "head.bias": torch.tensor([1.0, 70000.0])}
    path = source(big)
    with pytest.raises(
        RekernelError,
        match=r"head\.bias: value 70000 is too large for F16, whose maximum is 65504; cast to BF16 or F32",
    ):
        convert(path, tmp_path / "out.safetensors", scale=2, dtype="fp16")
    assert left(tmp_path) == ["in.safetensors"]
    path = source({"a.weight": torch.full((4, 4, 3, 3), 1e6)})  # too large still when rescaled
    with pytest.raises(RekernelError, match=r"a\.weight: value .* is too large for F16"):
        convert(path, tmp_path / "out.safetensors", scale=2, dtype="F16")
    infinite = source({"a.weight": random(4, 4, 3, 3), "b.bias": torch.tensor([float("inf")])})
    convert(infinite, tmp_path / "out.safetensors", scale=2, dtype="F16")  # was infinite before


def test_a_cast_of_dtypes_that_are_never_cast_is_refused(source, tmp_path):
    path = source({"a.weight": random(4, 4, 3, 3).to(torch.float8_e4m3fn), "steps": torch.arange(5)})
    with pytest.raises(RekernelError, match=r"holds only F8_E4M3, I64.*omit the cast to F16"):
        convert(path, tmp_path / "out.safetensors", scale=2, dtype="F16", allow_cast=True)


@pytest.mark.parametrize("asked", [{"scale": 0.5}, {"scale": 2, "gain": "none"}])
def test_float16_that_would_overflow_is_refused_and_what_was_infinite_stays(asked, source, tmp_path):
    big = torch.full((4, 4, 3, 3), 6e4, dtype=torch.float16)
    big[0, 0, 0, 0] = torch.inf
    with pytest.raises(
        RekernelError, match=r"a\.weight: value .* is too large for F16, whose maximum is 65504; cast to BF16 or F32"
    ):
        convert(source({"a.weight": big}), tmp_path / "out.safetensors", **asked, **SUPERSAMPLE)
    assert left(tmp_path) == ["in.safetensors"]
    model = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False).half()
    model.weight.data, gain = big, asked.get("gain", "dc")
    with pytest.raises(RekernelError, match=r"weight: value .* is beyond float16's 65504"):
        rescale(model, asked["scale"], torch.zeros(1, 4, 8, 8, dtype=torch.float16), gain=gain, **SUPERSAMPLE)
    big = big.where(big.isinf(), 1.0)
    convert(source({"a.weight": big}), tmp_path / "out.safetensors", **asked)
    assert not st.load_file(tmp_path / "out.safetensors")["a.weight"][0, 0].isfinite().all()


@pytest.mark.parametrize("dtype", ["F8", "int8", "fp4", ""])
def test_a_dtype_that_is_no_float_is_refused(dtype, source, tmp_path):
    with pytest.raises(RekernelError, match=r"is not one of F16, BF16, F32, F64|needs"):
        convert(source(), tmp_path / "out.safetensors", scale=2, dtype=dtype or "none")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_a_quantised_weight_is_rounded_back_where_that_was_allowed(dtype, source, tmp_path):
    path = source({"a.weight": (random(8, 4, 3, 3) * 8).to(dtype)})
    with pytest.raises(RekernelError, match="allow_cast=True"):
        convert(path, tmp_path / "out.safetensors", scale=2)
    convert(path, tmp_path / "out.safetensors", scale=2, allow_cast=True, **SUPERSAMPLE)
    out = st.load_file(tmp_path / "out.safetensors")["a.weight"]
    expected = resample_conv((random(8, 4, 3, 3) * 8).to(dtype), 2, allow_cast=True)
    assert_ulps(out, expected)


def test_a_plan_for_another_model_is_refused(source, tmp_path):
    plan = plan_checkpoint(source(), 2)
    others = [
        ({"x.weight": random(4, 4, 3, 3)}, r"plan again"),
        (network() | {"a.weight": random(130, 64, 5, 5)}, r"expects a\.weight as F32 \[130, 64, 3, 3\], but it is"),
        (network(torch.float16), r"but it is F16"),
    ]
    for tensors, words in others:
        path = source(tensors, name="other.safetensors")
        with pytest.raises(RekernelError, match=words):
            convert(path, tmp_path / "out.safetensors", plan=plan)
        assert left(tmp_path) == ["in.safetensors", "other.safetensors"]


def test_a_plan_that_went_through_json_does_the_same(source, tmp_path):
    path = source()
    plan = plan_checkpoint(path, 2)
    for name, given in (("one", plan), ("two", Plan.from_json(plan.to_json()))):
        convert(path, tmp_path / f"{name}.safetensors", plan=given)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    # Kept tensors need no entry; the recipe lists none either.
    convert(path, tmp_path / "three.safetensors", plan=Plan.from_json(plan.to_json(kept=False)))
    assert (tmp_path / "three.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs a scale or a size, or a plan"),
        ({"scale": 1}, "the plan changes nothing"),
        ({"scale": 2, "exclude": ["*"]}, "the plan changes nothing"),
        ({"scale": 2, "components": ["unet"]}, "not a pipeline folder"),
        ({"scale": 2, "max_shard_size": 100}, "the result is a folder"),
        ({"scale": 2, "plan": Plan(())}, "a plan or scale"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(options, words, source, tmp_path):
    path = source()
    with pytest.raises(RekernelError, match=words):
        convert(path, tmp_path / "out.safetensors", **options)
    assert left(tmp_path) == ["in.safetensors"]


def test_a_rescaled_file_is_not_rescaled_again(source, tmp_path):
    first = tmp_path / "out.safetensors"
    path = source()
    convert(path, first, scale=2)
    for attempt in (
        lambda: convert(first, tmp_path / "again.safetensors", scale=2),
        lambda: plan_checkpoint(first, 2),
        lambda: convert(first, tmp_path / "again.safetensors", plan=plan_checkpoint(path, 2)),
    ):
        with pytest.raises(RekernelError, match=r"was rescaled already \(scale 2, rekernel .*convert the original"):
            attempt()
    assert left(tmp_path) == ["in.safetensors", "out.safetensors"]


def test_metadata_of_ours_that_is_no_recipe_is_refused_but_can_be_looked_at(source):
    path = source(metadata={"rekernel": "{\x1b"})
    with pytest.raises(RekernelError, match="does not hold a rekernel recipe"):
        plan_checkpoint(path, 2)
    assert "not hold a rekernel recipe" in inspect(path).recipe_error


def test_progress_is_monotone_and_ends_at_the_total_and_the_estimate_is_right(source, tmp_path):
    path, target, heard = source(), tmp_path / "out.safetensors", []
    report = convert(path, target, scale=2, progress=lambda done, total: heard.append((done, total)))
    expected = estimate(path, report.plans)
    assert {total for _, total in heard} == {expected.output_bytes}
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1][0] == expected.output_bytes == sum(map(len, raw(target).values()))
    assert report.bytes_written == target.stat().st_size
    assert expected.files == (("in.safetensors", expected.output_bytes),)
    assert (report.tensors_changed, report.tensors_kept) == (3, len(network()) - 3)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_the_mode_follows_the_umask(mask, source, tmp_path):
    path = source()
    old = os.umask(mask)
    try:
        for mode in (0o666, 0o600):  # safetensors makes private files
            path.chmod(mode)
            convert(path, tmp_path / f"{mode:o}.safetensors", scale=2)
            assert stat.S_IMODE((tmp_path / f"{mode:o}.safetensors").stat().st_mode) == mode & ~mask
    finally:
        os.umask(old)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (4, 0, 3, 3)])
def test_an_empty_convolution_gets_its_new_shape(shape, source, tmp_path):
    path = source({"a.weight": torch.zeros(shape), "b.weight": random(4, 4, 3, 3)})
    convert(path, tmp_path / "out.safetensors", scale=2)
    assert tuple(st.load_file(tmp_path / "out.safetensors")["a.weight"].shape) == (*shape[:2], 5, 5)


def test_weights_of_four_bits_are_copied_though_nothing_can_compute_with_them(tmp_path):
    header, infos = build_header([("q", "F4", (6,)), ("a.weight", "F32", (1, 1, 3, 3))])
    path = tmp_path / "in.safetensors"
    path.write_bytes(header + bytes(range(max(info.end for info in infos.values()))))
    convert(path, tmp_path / "out.safetensors", scale=2)
    assert raw(tmp_path / "out.safetensors")["q"] == raw(path)["q"]


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_a_pickle_is_converted_where_that_was_allowed(suffix, tmp_path):
    path, target = tmp_path / f"in{suffix}", tmp_path / "out.safetensors"
    tensors = {"a.weight": random(8, 4, 3, 3), "a.bias": random(8)}
    torch.save({"state_dict": tensors, "epoch": 3} if suffix == ".ckpt" else tensors, path)
    with pytest.raises(RekernelError, match=r"can run code.*allow_pickle=True"):
        convert(path, target, scale=2)
    assert not target.exists()
    convert(path, target, scale=2, allow_pickle=True, **SUPERSAMPLE)
    out = st.load_file(target)
    assert_ulps(out["a.weight"].numpy(), resample_conv(tensors["a.weight"].numpy(), 2))
    assert torch.equal(out["a.bias"], tensors["a.bias"])
    metadata = shard_of_file(target).header.metadata
    assert metadata["format"] == "pt"
    assert inspect(target).recipe.sources[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_plan_without_a_change_names_the_options_that_help_first(source, tmp_path):
    path = source(
        {"cls_token": random(1, 1, 8), "embed.weight": random(8, 3, 8, 8), "embed2.weight": random(8, 8, 4, 4)}
    )
    with pytest.raises(RekernelError, match=r"changes nothing.*mode='absorb'.*stride=.*embed.*\(1 more note: see"):
        convert(path, tmp_path / "out.safetensors", scale=2)
    with pytest.raises(RekernelError, match=r"changes nothing") as caught:
        convert(path, tmp_path / "out.safetensors", scale=2, mode="supersample")
    text = caught.value.on_command_line()
    assert "\n" not in text and "--" not in str(caught.value)
    assert text.index("--stride embed=N") < text.index("--stride embed2=N") < text.index("cls_token")
