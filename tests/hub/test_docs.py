"""The commands of docs/hub.md, run one after the other against the loopback hub."""

import re
import shlex

from .conftest import ROOT, card, checkpoint


def test_the_commands_of_the_page_work(hub, rekernel, tmp_path):
    text = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    hub.add("org/model", {"model.safetensors": checkpoint(), "README.md": card(license="mit"), "config.json": b"{}"})
    hub.repos.pop("me/model-2x", None)
    commands = [
        line.removeprefix("$ ").partition("  #")[0]
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines() if line.startswith("$ rekernel")
    ]  # fmt: skip
    assert len(commands) == 4
    for command in commands:
        again = ["--exist-ok"] if "--private" in command else []  # the page pushes the same folder twice
        ran = rekernel(*shlex.split(command)[1:], *again)
        assert ran.code == 0, (command, ran.stderr)
    assert "model.safetensors" in hub.repos["me/model-2x"].head.files


def test_addresses_on_the_page_are_addresses():
    from rekernel.sources.address import address_of

    text = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(hf://\S+)\s{2}", text, re.MULTILINE)
    assert len(listed) == 4 and all(address_of(address) for address in listed)
