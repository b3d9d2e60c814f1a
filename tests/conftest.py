"""Which tests are numeric: they compare what several engines compute, or with a bound that rounding could touch. And
signals: the programs that tests start can be interrupted, though the tests run under nohup or in the background.
"""

import signal
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NUMERIC = (
    "benchmarks/diffusion/test_diffusion_metrics.py",
    "benchmarks/diffusion/test_frechet.py",
    "conversion/test_convert.py",
    "conversion/test_convert_files.py",
    "diffusion/positions",
    "diffusion/test_guided.py",
    "diffusion/test_matching.py",
    "diffusion/test_schedulers.py",
    "diffusion/test_transformers.py",
    "golden",
    "onnx/test_onnx_convert.py",
    "resampling",
    "torch/forms/test_factored.py",
    "torch/networks/test_glyphs.py",
    "torch/networks/test_transformers_names.py",
    "torch/test_engines.py",
    "torch/test_identities.py",
    "torch/test_identities_absorbed.py",
    "torch/test_offline.py",
    "torch/test_positions.py",
    "torch/test_windows.py",
)

# A shell starts what runs in the background with SIGINT ignored, and nohup with SIGHUP ignored. Programs inherit which
# signals are ignored, but no handlers: so a handler that does nothing gives them the default.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda _number, _frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [HERE / name for name in NUMERIC]
    assert all(place.exists() for place in places), "a numeric test was moved"
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker("numeric")
