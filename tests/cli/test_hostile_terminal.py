"""Every command, with hostile text in all places that others fill, on a real terminal: nothing of it is obeyed.

One program runs all commands, so that packages are imported once. Its stdout and stderr are a pseudo-terminal, wide
enough that no path is folded: a fold before the Y of the hostile text would look like its line break.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import rekernel as rk
from rekernel_cli.main import main

pty = pytest.importorskip("pty")

ROOT = Path(__file__).parents[2]
# Sets the title, clears the screen, turns the direction of text, an 8-bit escape, and leaves the line.
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\u2066\x9b5m\rX\nY\u200b"
OBEYED = ("\x1b]0;", "\x1b[2J", "\x1b[5m", "\x9b", "\x07", "\u202e", "\u2066", "\u200b", "\rX", "\nY")
DRIVER = """
import json, sys
from rekernel_cli.main import main
for number, args in enumerate(json.load(open(sys.argv[1]))):
    print(f"\\n@@{number}@@", flush=True)
    try:
        main(args, prog_name="rekernel", standalone_mode=True)
    except SystemExit:
        pass
    except BaseException as error:
        print(f"Traceback {type(error).__name__}: {ascii(str(error))[:300]}")
    sys.stdout.flush(); sys.stderr.flush()
"""


def run(commands: list[list[str]], folder: Path) -> list[str]:
    """What a terminal is sent by each command."""
    (folder / "commands.json").write_text(json.dumps(commands))
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}"
    environment = {
        **os.environ, "PYTHONPATH": paths, "TERM": "xterm-256color", "COLUMNS": "400", "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hub"),
    }  # fmt: skip
    own, other = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder / "commands.json")],
        env=environment, stdin=subprocess.DEVNULL, stdout=other, stderr=other, cwd=folder,
    ) as program:  # fmt: skip
        os.close(other)
        sent = b"".join(iter(lambda: _some(own), b""))
        program.wait()
    os.close(own)
    text = sent.decode("utf-8", "replace").replace("\r\n", "\n")
    parts = [text.split(f"@@{n}@@\n", 1)[1].split(f"\n@@{n + 1}@@\n", 1)[0] for n in range(len(commands))]
    assert len(parts) == len(commands)
    return parts


def _some(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # the program has ended
        return b""


def check(commands: list[list[str]], folder: Path) -> None:
    wrong = {}
    for command, sent in zip(commands, run(commands, folder), strict=True):
        found = [mark for mark in OBEYED if mark in sent]
        if found or "Traceback" in sent:
            wrong[ascii(command)] = (found, ascii(sent)[-700:])
    assert not wrong, "\n".join(f"{command}\n   {found}" for command, found in wrong.items())


def leaves(document: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a JSON document; of a long list the first two entries."""
    yield where
    if isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, (*where, key))
    elif isinstance(document, list):
        for i, value in enumerate(document[:2]):
            yield from leaves(value, (*where, i))


def replaced(document: Any, where: tuple[Any, ...], by: Any) -> Any:
    if not where:
        return by
    changed = dict(document) if isinstance(document, dict) else list(document)
    changed[where[0]] = replaced(document[where[0]], where[1:], by)
    return changed


def lies(document: dict[str, Any]) -> Iterator[str]:
    """The document with hostile text in the place of each value, behind each text, as a key, and in a list."""
    for where in leaves(document):
        value: Any = document
        for step in where:
            value = value[step]
        texts = [HOSTILE, [HOSTILE], {HOSTILE: 1}]
        texts += [value + HOSTILE] if isinstance(value, str) else []
        texts += [{**value, HOSTILE: HOSTILE}] if isinstance(value, dict) else []
        for text in texts:
            yield json.dumps(replaced(document, where, text))


def names(prefix: str = "") -> dict[str, np.ndarray]:
    """Tensors whose names lead to a note, a reason or a refusal each."""
    h, kernel = HOSTILE, np.ones((4, 3, 3, 3), np.float32)
    return {
        f"{prefix}{name}": value
        for name, value in {
            f"{h}.weight": kernel, f"a.{h}.conv.weight": kernel, f"{h}.pos_embed": np.ones((1, 7, 4), np.float32),
            f"{h}.fc.weight": np.ones((10, 48), np.float32), f"{h}.weight_v": kernel, f"{h}2.weight_orig": kernel,
            f"{h}.weight_g": np.ones((4, 1, 1, 1), np.float32), f"{h}.relative_position_bias_table": kernel[0, 0],
            f"{h}2.weight_u": np.ones(4, np.float32), f"{h}3.weight": np.ones((3, 0, 3, 3), np.float32),
            f"{h}4.weight": np.ones((4, 3, 3, 3), np.int8), f"{h}.parametrizations.weight.original": kernel,
            f"{h}5.weight": np.ones((3, 3, 3, 3), np.float32), f"{h}6.weight": np.ones((8, 16, 40, 3), np.float32),
        }.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("terminal")


def plain(path: Path) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "conv2.weight": (8, 8, 3, 3), "fc.weight": (10, 8)}
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, path)
    return path


def test_names_of_tensors_and_metadata(folder: Path) -> None:
    commands = []
    for i, prefix in enumerate(("", "down_blocks.0.resnets.0.", "lora_unet_", "model.diffusion_model.", "blocks.0.")):
        floats = {name: tensor for name, tensor in names(prefix).items() if tensor.dtype != np.int8}
        for kind, tensors in (("all", names(prefix)), ("floats", floats)):
            path = folder / f"names-{i}-{kind}.safetensors"
            save_file(tensors, path, metadata={HOSTILE: HOSTILE, "modelspec.resolution": HOSTILE, "format": HOSTILE})
            for more in ([], ["--mode", "absorb"], ["--mode", "supersample", "--allow-cast"]):
                commands += [["plan", str(path), "--scale", "2", *more]]
                commands += [["convert", str(path), str(folder / f"out-{i}"), "--scale", "2", "--force", *more]]
                commands += [["convert", str(path), "x.safetensors", "--scale", "2", "--force", "--dry-run", *more]]
                commands += [["convert", str(path), "x.safetensors", "--scale", "2", "--force", *more]]
            commands += [["inspect", str(path)], ["inspect", str(path), "--tensors"]]
            commands += [["verify", str(path), str(path)], ["push", str(path), "me/x", "--dry-run"]]
            commands += [["sample", str(path)]]
    check(commands, folder)


def test_entries_of_a_plan(folder: Path) -> None:
    source = plain(folder / "plain.safetensors")
    plan = json.loads(rk.plan_checkpoint(source, scale=2, mode="supersample").to_json())
    plan["modules"] = [
        {"name": "pool", "kind": "max-pool", "reason": "grows", "geometry": [], "new_geometry": [], "method": ""}
    ]
    commands = []
    for i, text in enumerate(lies(plan)):
        (folder / f"plan-{i}.json").write_text(text)
        commands += [["convert", str(source), "y.safetensors", "--plan", f"plan-{i}.json", "--dry-run"]]
        commands += [["convert", str(source), "y.safetensors", "--plan", f"plan-{i}.json", "--force"]]
    check(commands, folder)


def test_entries_of_a_recipe(folder: Path) -> None:
    source = plain(folder / "plain.safetensors")
    made = rk.convert(source, folder / "made.safetensors", scale=2, mode="supersample", force=True).target
    recipe = json.loads(rk.inspect(made).metadata["rekernel"])
    recipe["sources"][0] |= {"repo": "me/x", "commit": "0" * 40, "path": "x.safetensors"}
    weights = {"conv1.weight": np.ones((8, 3, 5, 5), np.float32)}
    commands = []
    for i, text in enumerate(lies(recipe)):
        path = folder / f"recipe-{i}.safetensors"
        save_file(weights, path, metadata={"rekernel": text})
        commands += [["inspect", path.name], ["plan", path.name, "--scale", "2"]]
        commands += [["verify", source.name, path.name], ["push", path.name, "me/x", "--dry-run"]]
    check(commands, folder)


@pytest.mark.slow
def test_names_of_files_and_entries_of_folders(folder: Path) -> None:
    commands = []
    odd = folder / f"odd{HOSTILE}"
    (odd / "in").mkdir(parents=True)
    plain(odd / f"{HOSTILE}.safetensors")
    plain(odd / "in" / f"{HOSTILE}.safetensors")
    for name in (f"{HOSTILE}.pt", f"{HOSTILE}.onnx", f"{HOSTILE}.json", f"{HOSTILE}.gguf"):
        (odd / name).write_bytes(b"nothing")
    index = {"metadata": {}, "weight_map": {f"{HOSTILE}.weight": f"{HOSTILE}.safetensors"}}
    for i, text in enumerate(lies(index)):
        (odd / f"index-{i}").mkdir()
        (odd / f"index-{i}" / "model.safetensors.index.json").write_text(text)
    model = {"_class_name": "P", "unet": ["diffusers", "UNet2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    config = {"sample_size": 16, "_class_name": "UNet2DModel", "rekernel": {
        "version": 1, "tool": "x", "scale": 2.0, "sample_size": 16, "guidance": {"theta": 1.0}, "kernels": {"until": 1},
    }}  # fmt: skip
    made = [(text, json.dumps(config)) for text in lies(model)] + [(json.dumps(model), text) for text in lies(config)]
    for i, (first, second) in enumerate(made):
        place = odd / f"pipe-{i}"
        (place / "unet").mkdir(parents=True)
        (place / "model_index.json").write_text(first)
        (place / "unet" / "config.json").write_text(second)
        plain(place / "unet" / "diffusion_pytorch_model.safetensors")
    for path in sorted(odd.iterdir()):
        there = str(path)
        commands += [["inspect", there], ["plan", there, "--scale", "2"], ["push", there, "me/x", "--dry-run"]]
        commands += [["convert", there, f"{odd}/out", "--scale", "2", "--force"], ["sample", there]]
        commands += [["convert", there, f"{odd}/out2", "--scale", "2", "--guidance", "theta=1", "--dry-run"]]
        commands += [["inspect", there, "--allow-pickle"], ["verify", there, there]]
    commands += [["inspect", f"{odd}/none"], ["convert", f"{odd}/none", "x", "--scale", "2"]]
    commands += [["inspect", f"hf://{HOSTILE}/x"], ["inspect", f"hf://a/{HOSTILE}"], ["inspect", f"hf://a/b@{HOSTILE}"]]
    check(commands, folder)


def test_values_of_options(folder: Path) -> None:
    source = plain(folder / "plain.safetensors").name
    first = {"verify": [source, source], "convert": [source, "z.safetensors", "--dry-run"], "demo": ["--quiet"]}
    first["push"] = [source, "me/x", "--dry-run"]
    commands: list[list[str]] = [[HOSTILE], [f"--{HOSTILE}"]]
    seen: set[str] = set()
    for name in main.list_commands(None):  # type: ignore[arg-type]
        command = main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        start = [name, *first.get(name, [source])]
        scale = ["--scale", "2"] if name in ("plan", "convert") else []
        commands += [[name, HOSTILE], [*start, HOSTILE], [*start, f"--{HOSTILE}"]]
        options = [opt for p in command.params if not getattr(p, "is_flag", False) for opt in p.opts[:1]]
        for option in [o for o in options if o.startswith("--") and o not in seen and (name, o) != ("demo", "--out")]:
            seen.add(option)
            for value in (HOSTILE, f"{HOSTILE}=1", f"conv1={HOSTILE}", f"conv1:{HOSTILE}=7"):
                commands.append([*start, *(scale if option != "--scale" else []), option, value])
    for value in (f"{HOSTILE}:taps=7", f"conv1:method={HOSTILE}"):
        commands.append(["plan", source, "--scale", "2", "--set", value])
    for option, value in (
        ("--include", f"re:({HOSTILE}"),
        ("--mode", f"{HOSTILE}=absorb"),
        ("--layout", f"{HOSTILE}=OI"),
    ):
        commands.append(["plan", source, "--scale", "2", option, value])
    check(commands, folder)
