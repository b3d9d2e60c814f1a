"""What the help promises: an example in each, every option explained, nothing slow, a reference that is up to date."""

import subprocess
import sys

import click
import pytest

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


@pytest.mark.parametrize("words", [(), ("inspect",), ("demo",)])
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


@pytest.mark.parametrize(
    "words", [["--help"], ["inspect", "--help"], ["push", "--help"], ["verify", "--help"], ["plan", "--nosuch"]]
)
def test_help_and_wrong_usage_import_no_library(words):
    """The lists in the help of `plan` and `convert` are the library's, so these two do import it."""
    code = (
        "import sys\nfrom contextlib import suppress\nimport click\nfrom rekernel_cli.main import main\n"
        f"with suppress(click.UsageError):\n    main({words}, standalone_mode=False)\n"
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


@pytest.mark.parametrize(
    ("typed", "word", "found"),
    [
        ("rekernel con", 1, "plain,convert"),
        ("rekernel convert --method pinv-c", 3, "plain,pinv-cubic"),
        ("rekernel convert --gain r", 3, "plain,ratio"),
    ],
)
def test_shell_completion_works(typed, word, found, program):
    script = program(env={"_REKERNEL_COMPLETE": "bash_source"})
    assert script.returncode == 0 and "_rekernel_completion" in script.stdout
    words = program(env={"_REKERNEL_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(word)})
    assert words.stdout.strip() == found
