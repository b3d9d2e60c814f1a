"""Applying matrices to arrays: one result for every framework, layout, dtype and path through the code."""

from __future__ import annotations

import itertools
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

import rekernel as rk

RNG = np.random.default_rng(20)
EINSUM = {1: "abi,xi->abx", 2: "abij,xi,yj->abxy", 3: "abijk,xi,yj,zk->abxyz"}
NARROW = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}  # half an ulp at 1


def array(name: str, shape: tuple[int, ...], dtype: str = "float32"):
    values = np.random.default_rng(len(shape)).normal(size=shape)
    if name == "torch":
        return torch.tensor(values).to(getattr(torch, dtype))
    if name == "jax":
        return jnp.asarray(values, dtype=dtype)
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def numbers(x) -> np.ndarray:
    return x.detach().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=np.float64)


def operators(k: tuple[int, ...], scale: float = 2.0, method: str = "cubic") -> list[np.ndarray]:
    return [rk.kernel_operator(n, scale, method) for n in k]


# --- the numbers -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3), scale=st.sampled_from([0.5, 1.5, 2.0, 3.0]),
    method=st.sampled_from(["optimal", "cubic", "nearest"]), framework=st.sampled_from(["numpy", "torch"]),
    channels_last=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_resampling_the_weight_equals_the_adjoint_on_the_input(sizes, scale, method, framework, channels_last, seed):
    axes = [i + (0 if channels_last else 2) for i in range(len(sizes))]
    shape = (*sizes, 2, 3) if channels_last else (2, 3, *sizes)
    R = dict(zip(axes, operators(tuple(sizes), scale, method), strict=True))
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape)
    x = rng.normal(size=tuple(len(R[i]) if i in R else n for i, n in enumerate(shape)))
    if framework == "torch":
        w, x = torch.tensor(w), torch.tensor(x)
    forward = numbers(rk.resample(w, R)) * numbers(x)
    adjoint = numbers(w) * numbers(rk.resample(x, {i: m.T for i, m in R.items()}))
    assert forward.sum() == pytest.approx(adjoint.sum(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "k", [(3,), (3, 3), (2, 5), (3, 3, 3), (11, 11), (1, 4, 3)]
)  # (11, 11): too many for Kronecker
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_axes_together_one_by_one_and_by_einsum_agree(k, framework):
    w = array(framework, (4, 3, *k))
    R = operators(k)
    together = rk.resample(w, dict(enumerate(R, 2)))
    stepwise = w
    for axis in reversed(range(len(k))):
        stepwise = rk.resample(stepwise, {axis + 2: R[axis]})
    expected = np.einsum(EINSUM[len(k)], numbers(w), *R)
    np.testing.assert_allclose(numbers(together), expected, atol=1e-5)
    np.testing.assert_allclose(numbers(stepwise), expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["OIHW", "HWIO", "OHWI", "IOHW", "OIW", "WIO", "OIDHW", "DHWIO"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_layouts_are_permutations_of_one_result(layout, framework):
    spatial = [letter for letter in "DHW" if letter in layout]
    torchs, scale = ["O", "I", *spatial], [2.0, 1.5, 3.0][: len(spatial)]
    there = [torchs.index(letter) for letter in layout]
    w = array("numpy", (4, 5, 3, 2, 5)[: len(layout)])
    expected = rk.resample_conv(w, scale, "cubic").transpose(there)
    moved = np.ascontiguousarray(w.transpose(there))
    moved = torch.tensor(moved) if framework == "torch" else moved
    np.testing.assert_allclose(numbers(rk.resample_conv(moved, scale, "cubic", layout=layout)), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", list(NARROW))
@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("k", [(3, 3), (11, 11)])
def test_narrow_dtypes_are_rounded_once_at_the_end(framework, dtype, k):
    w = array(framework, (8, 8, *k), dtype)
    out = rk.resample(w, dict(enumerate(operators(k), 2)))
    expected = np.einsum(EINSUM[2], numbers(w), *operators(k))
    assert out.dtype == w.dtype
    # Half an ulp for the one rounding; the accumulation adds its own, in float32 at worst.
    own = 8 * (NARROW["float64"] if dtype == "float64" else NARROW["float32"])
    bound = 1.001 * NARROW[dtype] * np.abs(expected) + own + (2**-25 if dtype == "float16" else 0)  # its subnormals
    assert (np.abs(numbers(out) - expected) <= bound).all()


@pytest.mark.parametrize("layout", ["OIHW", "HWIO"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_large_arrays_in_blocks_and_threads_agree_with_einsum(framework, layout):
    w = array(framework, (300, 250, 3, 3) if layout == "OIHW" else (3, 3, 300, 250))  # 1.9 million outputs
    R = rk.kernel_operator(3, 2.0)
    out = numbers(rk.resample_conv(w, 2.0, layout=layout))
    sums = "abij,xi,yj->abxy" if layout == "OIHW" else "ijab,xi,yj->xyab"
    np.testing.assert_allclose(out, np.einsum(sums, numbers(w), R, R, optimize=True), atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "method", "a", "sizes"),
    [("linear", "linear", -0.5, (7,)), ("bilinear", "linear", -0.5, (7, 5)), ("trilinear", "linear", -0.5, (4, 3, 5)),
     ("bicubic", "cubic", -0.75, (7, 5)), ("nearest-exact", "nearest", -0.5, (4, 3, 5))],
)  # fmt: skip
def test_grids_agree_with_torch_interpolate(mode, method, a, sizes):
    x, new = torch.tensor(RNG.normal(size=(2, 3, *sizes))), tuple(2 * n + 1 for n in sizes)
    R = [rk.grid_operator(n, m, method, gain="none", a=a) for n, m in zip(sizes, new, strict=True)]
    options = {} if mode.startswith("nearest") else {"align_corners": False}
    torch.testing.assert_close(rk.resample(x, dict(enumerate(R, 2))), F.interpolate(x, new, mode=mode, **options))


# --- what is left alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_scale_one_is_a_copy_bit_for_bit(framework, dtype):
    special = np.array([[[np.nan, -0.0, np.inf], [-np.inf, 1e-30, 0.1]]])
    w = array(framework, special.shape, dtype)
    w = torch.tensor(special).to(w.dtype) if framework == "torch" else (w * 0 + 1) * special.astype(w.dtype)
    out = rk.resample_conv(w, 1, "cubic")
    assert out.dtype == w.dtype
    if framework == "torch":
        assert torch.equal(out.view(torch.uint8), w.view(torch.uint8))
        assert out.data_ptr() != w.data_ptr()
    else:
        assert np.asarray(out).tobytes() == np.asarray(w).tobytes()
        assert framework == "jax" or not np.shares_memory(out, w)  # JAX arrays are immutable


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("scale", [1, 2, (1, 2)])
def test_input_is_neither_modified_nor_shared(framework, scale):
    w = array(framework, (4, 3, 3, 3))
    before = numbers(w).copy()
    out = rk.resample_conv(w, scale)
    if framework != "jax":
        out[...] = 7
    assert np.array_equal(numbers(w), before)


def test_an_identity_mixes_nothing_along_its_axis():
    w = array("numpy", (2, 2, 3, 3))
    w[:, :, 1] = np.nan
    R = rk.kernel_operator(3, 2)
    out = rk.resample(w, {2: np.eye(3), 3: R})
    assert out.tobytes() == rk.resample(w, {3: R}).tobytes()
    assert np.isfinite(out[:, :, [0, 2]]).all()


@pytest.mark.parametrize("order", ["C", "F", "strided", "read-only"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_memory_order_does_not_matter(order, framework):
    w = array("numpy", (4, 6, 3, 3))
    expected = rk.resample_conv(w, 2)
    if order == "F":
        w = np.asfortranarray(w)
    elif order == "strided":
        w = np.repeat(w, 2, axis=1)[:, ::2]
    elif order == "read-only":
        w.flags.writeable = False
    if framework == "torch":
        base = torch.tensor(np.ascontiguousarray(w))
        changes = {"F": lambda t: t.to(memory_format=torch.channels_last), "strided": lambda t: t.mT.contiguous().mT}
        w = changes.get(order, lambda t: t)(base)
    np.testing.assert_allclose(numbers(rk.resample_conv(w, 2)), expected, atol=1e-6)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_empty_arrays(framework):
    out = rk.resample_conv(array(framework, (0, 4, 3, 3)), 2)
    assert tuple(out.shape) == (0, 4, 5, 5)
    assert type(out) is type(array(framework, (1,)))


# --- frameworks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_frameworks_agree_and_keep_type_dtype_and_device(dtype):
    outs = {}
    for framework in ("numpy", "torch", "jax"):
        w = array(framework, (4, 3, 3, 3), dtype)
        out = outs[framework] = rk.resample_conv(w, 2, "cubic")
        assert type(out) is type(w)
        assert out.dtype == w.dtype
        assert framework == "numpy" or out.device == w.device
    for name in ("torch", "jax"):
        # One ulp: the frameworks may sum in another order, and so round a tie the other way.
        np.testing.assert_allclose(numbers(outs[name]), numbers(outs["numpy"]), rtol=2.1 * NARROW[dtype], atol=1e-6)


def test_meta_tensors_give_shapes():
    w = torch.empty(4, 3, 3, 3, device="meta")
    assert rk.resample_conv(w, 2).shape == (4, 3, 5, 5)
    assert rk.resample_conv(w, 2).is_meta


def test_gradients_flow_through_torch():
    w = torch.tensor(RNG.normal(size=(2, 2, 3, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: rk.resample_conv(t, (2, 1.5), "cubic"), (w,))
    v = torch.tensor(RNG.normal(size=(2, 8)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: rk.resample_linear(t, (2, 2, 2), (2, 3, 4), "linear"), (v,))


def test_gradients_flow_through_jax_and_its_compiler():
    w = jnp.asarray(RNG.normal(size=(2, 2, 3, 3)), dtype=jnp.float32)
    c = RNG.normal(size=(2, 2, 5, 5))
    grad = jax.jit(jax.grad(lambda t: (rk.resample_conv(t, 2) * c).sum()))(w)
    R = rk.kernel_operator(3, 2)
    np.testing.assert_allclose(grad, np.einsum("abxy,xi,yj->abij", c, R, R), atol=1e-5)


def test_parameters_under_no_grad_give_plain_tensors():
    w = torch.nn.Parameter(torch.ones(2, 2, 3, 3))
    with torch.no_grad():
        out = rk.resample_conv(w, 2)
        same = rk.resample_conv(w, 1)
    for tensor in (out, same):
        assert not tensor.requires_grad
        assert not isinstance(tensor, torch.nn.Parameter)


# --- dtypes that are refused -----------------------------------------------------------------------------------------

ODD = [
    (np.array([100, 90, 80], np.int8), "int8"), (torch.tensor([100, 90, 80], dtype=torch.uint8), "uint8"),
    (jnp.array([100, 90, 80], dtype=jnp.int32), "int32"), (np.array([True, False, True]), "bool"),
    (torch.tensor([True, False, True]), "bool"), (np.array([1, 2, 3], ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
    (torch.tensor([1.0, 2, 3]).to(torch.float8_e4m3fn), "float8_e4m3fn"), (np.ones(3, np.longdouble), "float128"),
    (torch.ones(3, dtype=torch.complex64), "complex64"),
]  # fmt: skip


@pytest.mark.parametrize(("w", "name"), ODD, ids=lambda v: v if isinstance(v, str) else type(v).__module__)
def test_other_dtypes_are_refused_by_name(w, name):
    if name == "float128" and np.dtype(np.longdouble).name != "float128":
        pytest.skip("no float128 on this machine")
    with pytest.raises(rk.RekernelError, match=f"dtype {name} .*shape \\(3,\\)"):
        rk.resample(w, {0: np.eye(5, 3)})


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_allowed_casts_round_and_saturate(framework):
    values = np.array([100, 101, 127], np.int8)
    w = {"numpy": values, "torch": torch.tensor(values), "jax": jnp.asarray(values)}[framework]
    out = rk.resample(w, {0: np.array([[0.5, 0.5, 0], [0, 0.2, 0], [0, 0, 2], [-2, 0, 0]])}, allow_cast=True)
    assert out.dtype == w.dtype
    assert numbers(out).tolist() == [100, 20, 127, -128]  # 100.5 to even, 20.2, 254 and -200 at the ends


def test_allowed_casts_of_int32_and_float8():
    top = np.full(3, 2**31 - 1, np.int32)
    for w in (top, torch.tensor(top)):
        assert (numbers(rk.resample(w, {0: 2 * np.eye(3)}, allow_cast=True)) > 2**31 - 200).all()
    for w in (np.array([1, 2, 3], ml_dtypes.float8_e4m3fn), torch.tensor([1.0, 2, 3]).to(torch.float8_e4m3fn)):
        out = rk.resample(w, {0: np.array([[0.5, 0.5, 0]])}, allow_cast=True)
        assert out.dtype == w.dtype
        assert float(out[0]) == 1.5
    with pytest.raises(rk.RekernelError, match="complex128"):
        rk.resample(np.ones(3, complex), {0: 2 * np.eye(3)}, allow_cast=True)


# --- convolutions ----------------------------------------------------------------------------------------------------


def test_memory_beyond_the_output_is_small():
    w = np.zeros((512, 512, 3, 3), np.float16)
    rk.resample_conv(w[:8], 2)  # imports and pools
    tracemalloc.start()
    out = rk.resample_conv(w, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.nbytes == 2 * 512 * 512 * 25
    assert peak - out.nbytes < 4e6  # in float32 the output alone is 26 MB, the input 9 MB


def test_pointwise_axes_are_untouched_unless_asked():
    w = array("numpy", (4, 3, 1, 3))
    out = rk.resample_conv(w, 2, "linear")
    assert out.shape == (4, 3, 1, 7)
    assert rk.resample_conv(array("numpy", (4, 3, 1, 1)), 3).tobytes() == array("numpy", (4, 3, 1, 1)).tobytes()
    assert rk.resample_conv(w, 2, "linear", taps=(3, None)).shape == (4, 3, 3, 7)
    assert rk.resample_conv(w, 2, "linear", phase=(0.5, 0)).shape == (4, 3, 5, 7)


def test_scale_taps_and_phase_go_to_their_axes():
    w = array("numpy", (2, 2, 3, 3), "float64")
    got = rk.resample_conv(w, (2, 3), "cubic", taps=(6, "full"), phase=(0.5, 0.25))
    rows = rk.kernel_operator(3, 2, "cubic", taps=6, phase=0.5)
    columns = rk.kernel_operator(3, 3, "cubic", taps="full", phase=0.25)
    np.testing.assert_allclose(got, np.einsum(EINSUM[2], w, rows, columns), atol=1e-12)
    assert np.array_equal(rk.resample_conv(w, np.array([2.0, 1.0])), rk.resample_conv(w, (2, 1)))


def test_depthwise_kernels_are_resampled_one_by_one():
    w = array("numpy", (6, 1, 3, 3))
    one_by_one = np.concatenate([rk.resample_conv(w[i : i + 1], 2) for i in range(6)])
    np.testing.assert_allclose(rk.resample_conv(w, 2), one_by_one, atol=1e-6)


@pytest.mark.parametrize("method", ["optimal", "cubic", "linear", "nearest", "area", "lanczos3", "dilate"])
def test_response_to_a_constant_is_kept(method):
    w = array("numpy", (5, 4, 3, 3), "float64")
    np.testing.assert_allclose(rk.resample_conv(w, 3, method).sum((2, 3)), w.sum((2, 3)), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: rk.resample_conv(w, (2, 2, 2)), r"scale=\(2, 2, 2\) has 3 entries for 2"),
        (lambda w: rk.resample_conv(w, 2, taps=(5,)), r"taps=\(5,\)"),
        (lambda w: rk.resample_conv(w, 2, phase=[0.0] * 3), "phase="),
        (lambda w: rk.resample_conv(w, 2, layout="OIW"), r"layout='OIW' does not fit .*\(4, 3, 3, 3\)"),
        (lambda w: rk.resample_conv(w, 2, layout="OOHW"), "layout='OOHW'"),
        (lambda w: rk.resample_conv(w, 2, layout="NCHW"), "layout='NCHW'"),
        (lambda w: rk.resample_conv(w[0, 0], 2), "3 to 5 axes, not 2"),
        (lambda w: rk.resample(w, {4: np.eye(3)}), r"axis 4 .*\(4, 3, 3, 3\)"),
        (lambda w: rk.resample(w, {3: np.eye(3), -1: np.eye(3)}), "axis 3 .* two operators"),
        (lambda w: rk.resample(w, {0: np.eye(3)}), r"\(3, 3\) does not fit axis 0 .* needs 4 columns"),
        (lambda w: rk.resample(w, {0: np.ones(4)}), r"shape \(4,\)"),
        (lambda w: rk.resample(w.tolist(), {0: np.eye(4)}), "w is a list, not an array"),
    ],
)
def test_errors_name_what_does_not_fit(call, message):
    with pytest.raises(rk.RekernelError, match=message):
        call(array("numpy", (4, 3, 3, 3)))


def test_every_block_of_a_thread_is_written_once():
    # np.empty leaves garbage where a block is forgotten: compare lengths around the block size.
    R = rk.kernel_operator(3, 2.0, "nearest")
    for rows in itertools.chain(range(66_660, 66_672), (233_333, 400_001)):
        out = rk.resample(np.ones((rows, 3), np.float32), {1: R})
        assert (out == R.sum(axis=1).astype(np.float32)).all()
