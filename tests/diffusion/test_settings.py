"""Settings of guidance and kernels: one list of options, which a record, a card and the command line share."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest

from rekernel.diffusion import Recorded, SupersampledKernels, UpsampleGuidance
from rekernel.diffusion.guidance.settings import GuidanceSettings
from rekernel.diffusion.kernels.settings import KernelSettings
from rekernel.errors import RekernelError
from rekernel_cli import guidance_options as typed

PAIRS = [(GuidanceSettings, UpsampleGuidance), (KernelSettings, SupersampledKernels)]


@pytest.mark.parametrize(("settings", "attachable"), PAIRS)
def test_what_is_attached_has_the_settings_signature_and_text(settings, attachable):
    assert inspect.signature(settings) == inspect.signature(attachable)
    assert repr(settings(2)).startswith(f"{settings.__name__}(scale=2")
    assert repr(attachable(2)) == repr(settings(2)).replace(settings.__name__, attachable.__name__)[:-1] + (
        "; not attached)"
    )


@pytest.mark.parametrize(("settings", "attachable"), PAIRS)
def test_two_attachables_of_equal_settings_are_different_things(settings, attachable):
    assert attachable(2) != attachable(2)
    assert len({attachable(2), attachable(2)}) == 2


def test_options_are_the_fields_that_json_can_keep():
    names = ["theta", "eta", "start", "stop", "levels", "reduce", "enlarge", "predictor"]
    assert list(GuidanceSettings.option_names()) == names
    assert {f.name for f in fields(GuidanceSettings)} - set(names) == {"scale", "log_snr", "schedule", "prediction"}
    names = ["layers", "method", "until", "progressive", "noise_damped", "form"]
    assert list(KernelSettings.option_names()) == names
    assert {f.name for f in fields(KernelSettings)} - set(names) == {"scale", "schedule"}


def test_the_command_line_takes_every_option_of_guidance():
    given = {"theta": "1.5", "eta": "0.5", "levels": "2", "reduce": "area", "enlarge": "cubic", "predictor": "reduced"}
    options = typed.options(",".join(f"{name}={value}" for name, value in given.items()))
    assert options == {**given, "theta": 1.5, "eta": 0.5, "levels": 2}
    assert set(GuidanceSettings.option_names()) - set(given) == {"start", "stop"}
    assert typed.options("start=9,stop=1") == {"start": 9.0, "stop": 1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [({"theta": float("nan")}, "finite"), ({"sharpness": 1}, "no option sharpness; there are theta"), ([], "by name")],
)
def test_options_that_a_record_refuses_are_refused_without_one(options, said):
    for make in (GuidanceSettings.from_options, UpsampleGuidance.from_options):
        with pytest.raises(RekernelError, match=said):
            make(2, options)
    with pytest.raises(RekernelError, match=said):
        Recorded(2.0, 64, guidance=options)


def test_methods_by_scale_may_come_from_json():
    options = {"method": {"2": "optimal", "4": None}}
    assert KernelSettings.from_options(4, options).method == {2.0: "optimal", 4.0: None}
    assert options == {"method": {"2": "optimal", "4": None}}


def test_settings_need_no_torch():
    code = (
        "import sys, rekernel.diffusion.guidance.settings, rekernel.diffusion.kernels.settings\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("options", [{"until": "0.7"}, {"until": {"mid*": "half"}}, {"method": ["cubic"]}])
def test_settings_of_another_kind_are_refused(options):
    with pytest.raises(RekernelError, match=r"until=|method="):
        KernelSettings(2, **options)
