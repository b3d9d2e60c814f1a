"""What the help promises: an example in each, every option explained, nothing slow, a reference that is up to date."""

import subprocess
import sys

import click
import numpy as np
import pytest
from safetensors.numpy import save_file

from rekernel.checkpoint.dtypes import FLOATS
from rekernel.resampling.methods import ALIASES, ALL_METHODS, KERNEL_METHODS, canonical_method
from rekernel_cli import values
from rekernel_cli.help_layout import WIDTH, LazyGroup
from rekernel_cli.main import main
from rekernel_cli.reference import PAGE, reference, write

COMMANDS = main.list_commands(click.Context(main))
WRITTEN_HERE = [name for name in COMMANDS if name != "demo"]


def command(name):
    return main.get_command(click.Context(main), name)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_and_explains_every_option(run, name):
    whole = "--help-all" if "--help-all" in run(name, "--help").stdout else "--help"
    result = run(name, whole, terminal_width=WIDTH)
    assert result.exit_code == 0
    assert f"      rekernel {name} " in result.stdout or f"      rekernel {name}\n" in result.stdout
    for param in command(name).params:
        if isinstance(param, click.Option):
            assert param.opts[0] in result.stdout
            assert param.help, param.opts


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_help_fits_a_screen_and_lists_no_argument_as_an_option(run, name):
    lines = run(name, "-h", terminal_width=80).stdout.splitlines()
    assert len(lines) <= 50
    assert max(len(line) for line in lines if not line.startswith("      rekernel ")) <= 80
    assert not [line for line in lines if line.strip() in ("SOURCE", "TARGET")]


@pytest.mark.parametrize(("name", "rare"), [("convert", "--max-shard-size"), ("plan", "--padding")])
def test_options_that_few_need_are_left_to_help_all(run, name, rare):
    short, long = run(name, "--help").stdout, run(name, "--help-all").stdout
    assert rare not in short and rare in long
    assert set(short.split()) <= set(long.split())
    assert "--help-all" not in run("inspect", "--help").stdout


@pytest.mark.parametrize("words", [(), ("inspect",), ("sample",), ("demo",)])
def test_help_all_is_help_where_no_option_is_rare(run, words):
    whole = run(*words, "--help-all")
    assert (whole.exit_code, whole.stdout) == (0, run(*words, "--help").stdout)


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_the_summary_in_the_list_is_the_first_line_of_the_help(name):
    assert command(name).help.splitlines()[0] == main.entries[name].summary


def test_commands_are_listed_under_headings_and_unfinished_ones_not_at_all(run):
    text = run("--help").stdout
    assert text.index("Look:") < text.index("  inspect  ") < text.index("Convert:") < text.index("  convert  ")
    assert text.index("Share:") < text.index("  push  ") < text.index("Try:")


def test_a_command_without_its_module_is_not_listed():
    from rekernel_cli.help_layout import Entry

    group = LazyGroup("g", entries={"ghost": Entry("rekernel_cli.ghost:ghost", "Try", "None.")})
    assert group.list_commands(click.Context(group)) == []
    assert group.get_command(click.Context(group), "ghost") is None


def test_help_imports_no_library():
    code = (
        "import sys\nfrom rekernel_cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'numpy', 'rich', 'rekernel', 'torch'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(run):
    import rekernel

    assert run("--version").stdout == f"rekernel {rekernel.__version__}\n"


def test_the_reference_is_up_to_date(run):
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m rekernel_cli.reference"
    for name in COMMANDS:
        assert f"## rekernel {name}\n" in reference()
    assert "_REKERNEL_COMPLETE=bash_source rekernel" in reference()


def test_a_stale_reference_fails_the_check(tmp_path, monkeypatch):
    from click.testing import CliRunner

    monkeypatch.setattr("rekernel_cli.reference.PAGE", tmp_path / "cli.md")
    assert CliRunner().invoke(write, ["--check"]).exit_code == 1
    assert CliRunner().invoke(write, []).exit_code == 0
    assert CliRunner().invoke(write, ["--check"]).exit_code == 0


def test_shell_completion_works(program):
    script = program(env={"_REKERNEL_COMPLETE": "bash_source"})
    assert script.returncode == 0 and "_rekernel_completion" in script.stdout
    words = program(env={"_REKERNEL_COMPLETE": "bash_complete", "COMP_WORDS": "rekernel con", "COMP_CWORD": "1"})
    assert words.stdout.strip() == "plain,convert"


@pytest.mark.parametrize("spelling", ["fp16", "float16", "half", "torch.bfloat16", "bf16", "fp32", "F64", "double"])
def test_a_dtype_is_understood_as_people_spell_it(spelling):
    assert values.dtype(spelling) in FLOATS


@pytest.mark.parametrize("method", [*ALL_METHODS, *ALIASES])
def test_every_method_of_the_library_can_be_typed_and_planned(method, run, tmp_path):
    save_file({"conv.weight": np.zeros((4, 4, 3, 3), np.float32)}, tmp_path / "a.safetensors")
    done = run("plan", tmp_path / "a.safetensors", "--scale", "2", "--method", method, "--json")
    kernel = canonical_method(method, ALL_METHODS) in KERNEL_METHODS
    assert (done.exit_code == 0) == kernel, done.output


def test_defaults_in_the_help_are_the_library_s(run):
    from rekernel.resampling.methods import KEYS_A, SMOOTHNESS

    text = " ".join(run("convert", "--help-all", terminal_width=WIDTH).stdout.split())
    assert f"Parameter a of the cubic filter (Keys). Default: {KEYS_A:g};" in text
    assert f"Weight of aliases for the optimal method, 0 to 1. Default: {SMOOTHNESS:g}." in text
