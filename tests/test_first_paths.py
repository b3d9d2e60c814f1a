"""The README's two first paths, from the wheel alone, in an environment of its own, with small networks.

Each network has random weights and lies in a folder with the name that the README takes from the Hub, so its lines run
as they stand. Of the pipeline, whose sizes would take hours here, only the size is another: 2048 becomes 64, from 32.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

for needed in ("torch", "transformers", "diffusers"):
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

MAKE_VIT = """
import torch
from transformers import ViTConfig, ViTForImageClassification

torch.manual_seed(0)
config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3)
assert (config.image_size, config.patch_size) == (224, 16)
ViTForImageClassification(config).save_pretrained("google/vit-base-patch16-224")
"""

MAKE_SDXL = """
import json, torch
from pathlib import Path
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
    attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=8, projection_class_embeddings_input_dim=64, transformer_layers_per_block=(1, 1),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)
vae = AutoencoderKL(
    block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4, sample_size=32,
    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
)
letters = "abcdefghijklmnopqrstuvwxyz"
names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
Path("vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
Path("merges.txt").write_text("#version: 0.2\\n")
tokens = lambda: CLIPTokenizer("vocab.json", "merges.txt", model_max_length=16)
text = CLIPTextConfig(
    vocab_size=len(names), hidden_size=16, projection_dim=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=32, max_position_embeddings=16, bos_token_id=len(names) - 2, eos_token_id=len(names) - 1,
)
StableDiffusionXLPipeline(
    vae, CLIPTextModel(text), CLIPTextModelWithProjection(text), tokens(), tokens(), unet, EulerDiscreteScheduler()
).save_pretrained("stabilityai/stable-diffusion-xl-base-1.0")
"""


def block(mark: str) -> str:
    """The block of the README that is fenced as ```` ```python MARK ````."""
    [found] = re.findall(rf"^```python {mark}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the wheel, and with this one's packages behind it, but not what their .pth files link to."""
    folder = tmp_path_factory.mktemp("clean")
    pins = {"PIP_BUILD_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True, env={**os.environ, **pins})
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    new = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(new), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    asked = [str(new), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return new


def run(python: Path, code: str, folder: Path, *command: str) -> str:
    """Run Python code, or a command of the environment, in a folder; what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    arguments = [str(python.parent / command[0]), *command[1:]] if command else [str(python), "-c", code]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_first_path_has_five_lines() -> None:
    for mark in ("vit", "sdxl"):
        assert 5 <= len([line for line in block(mark).splitlines() if line.strip()]) <= 6


@pytest.mark.slow
def test_the_wheel_alone_takes_a_vit_from_224_to_384(python: Path, tmp_path: Path) -> None:
    run(python, MAKE_VIT, tmp_path)
    check = """
import json, rekernel
with torch.no_grad():
    tokens = larger.vit.embeddings(torch.zeros(1, 3, 384, 384)).shape[1]
    answer = larger(torch.zeros(1, 3, 384, 384)).logits.shape
torch.save(larger(torch.ones(1, 3, 384, 384)).logits.detach(), "python.pt")
print(json.dumps([rekernel.__file__, tokens, list(answer)]))
"""
    where, tokens, answer = json.loads(run(python, block("vit") + check, tmp_path).splitlines()[-1])
    assert Path(where).is_relative_to(python.parents[1])
    assert tokens == 1 + (384 // 16) ** 2 and answer == [1, 3]
    [line] = re.findall(r"`(rekernel convert google/[^`]*)`", README)
    run(python, "", tmp_path, *line.split())
    opened = """
import torch
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("vit-384").eval()
assert model.config.image_size == 384 and model.config.patch_size == 16
with torch.no_grad():
    assert torch.allclose(model(torch.ones(1, 3, 384, 384)).logits, torch.load("python.pt"), atol=1e-5)
"""
    run(python, opened, tmp_path)


@pytest.mark.slow
def test_the_wheel_alone_takes_an_sdxl_pipeline_to_2048(python: Path, tmp_path: Path) -> None:
    run(python, MAKE_SDXL, tmp_path)
    code = re.sub(r"\b2048\b", "64", block("sdxl"))
    check = """
import json, rekernel.diffusion
size, held = image.size, repr(pipe.rekernel)
rekernel.diffusion.detach(pipe)
print(json.dumps([size, held, hasattr(pipe, "rekernel"), pipe("a lighthouse", num_inference_steps=2).images[0].size]))
"""
    size, held, still, small = json.loads(run(python, code + check, tmp_path).splitlines()[-1])
    assert size == [64, 64] and "Guid" in held
    assert not still and small == [32, 32]
