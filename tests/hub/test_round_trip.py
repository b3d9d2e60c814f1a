"""From the Hub and back, as a stranger does it: convert by name, push, paste the lines of the card, run them."""

import re

import pytest

from .conftest import card, checkpoint

BUILD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.point = nn.Conv2d(16, 16, 1, bias=False)

    def forward(self, x):
        return self.point(self.conv2(self.conv1(x)))
"""


def pasted(hub, repo: str) -> str:
    """The card's lines, as they are copied from the page."""
    text = hub.repos[repo].head.files["README.md"].data.decode()
    [code] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return code


def ok(ran):
    assert ran.code == 0, ran.stderr
    return ran.stdout


def published(hub, rekernel, name: str, files: dict[str, bytes], *options: object) -> str:
    hub.add(f"org/{name}", {"README.md": card(license="mit"), **files})
    ok(rekernel("convert", f"hf://org/{name}", "out", "--scale", 2, *options))
    ok(rekernel("push", "out", f"me/{name}"))
    return f"me/{name}"


def test_a_module_loads_by_name_and_answers_as_the_file_does(hub, rekernel, name):
    repo = published(hub, rekernel, name, {"model.safetensors": checkpoint()})
    said = ok(rekernel(python=BUILD + f"""
import rekernel.torch as rkt
x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
models = [rkt.load_pretrained("{repo}", model=Net()), rkt.load_pretrained("hf://{repo}@main", model=Net()),
          rkt.load_pretrained("out", model=Net()), rkt.load_pretrained("{repo}", model=Net(), revision="main"),
          rkt.load_pretrained("out", model=Net(), filename="model.safetensors"), rkt.load(Net(), "hf://{repo}")]
print(models[0].conv2.kernel_size, all(torch.equal(models[0](x), model(x)) for model in models[1:]))
"""))  # fmt: skip
    assert said == "(5, 5) True\n"
    assert ok(rekernel(python=pasted(hub, repo) + "print(weights['conv2.weight'].shape)")).endswith("16, 5, 5])\n")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("'me/never-made'", "hf://me/never-made: no such model repository"),
        ("'out', revision='main'", "out: a local folder has no revision main"),
        ("'hf://org/name@v1', revision='v2'", "hf://org/name@v1: has another revision than revision=v2"),
        ("'nowhere.safetensors'", "nowhere.safetensors: no such file or folder"),
    ],
)
def test_what_cannot_be_loaded_by_name_is_said(rekernel, arguments, said):
    code = f"import rekernel.torch as rkt, torch\nrkt.load_pretrained({arguments}, model=torch.nn.Identity())"
    ran = rekernel(python=code)
    assert ran.code == 99 and said in ran.stderr.splitlines()[-1]


UNET = """
import torch
from diffusers import UNet2DModel
torch.manual_seed(0)
model = UNet2DModel(sample_size=16, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
                    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))
model.save_pretrained("source")
"""
PIPELINE = """
import json, torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
torch.manual_seed(0)
UNet2DConditionModel(
    sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=16,
    attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
).save_pretrained("source/unet")
AutoencoderKL(block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4,
              down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
              ).save_pretrained("source/vae")
CLIPTextModel(CLIPTextConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
              ).save_pretrained("source/text_encoder")
DDIMScheduler().save_pretrained("source/scheduler")
index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
         "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"],
         "text_encoder": ["transformers", "CLIPTextModel"], "safety_checker": [None, None]}
json.dump(index, open("source/model_index.json", "w"))
"""
TEXT_TO_IMAGE = """
import json, pathlib
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
torch.manual_seed(0)
letters = [chr(c) for c in range(97, 123)]
words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
pathlib.Path("words").mkdir()
pathlib.Path("words/vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
pathlib.Path("words/merges.txt").write_text("#version: 0.2" + chr(10))
text = CLIPTextConfig(vocab_size=54, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                      max_position_embeddings=16, bos_token_id=52, eos_token_id=53, pad_token_id=53)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=16,
    attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
vae = AutoencoderKL(block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4,
                    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
StableDiffusionPipeline(
    vae=vae, text_encoder=CLIPTextModel(text), tokenizer=CLIPTokenizer.from_pretrained("words", model_max_length=16),
    unet=unet, scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
).save_pretrained("source")
"""
RESNET = """
import torch
from transformers import ResNetConfig, ResNetForImageClassification
torch.manual_seed(0)
config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
ResNetForImageClassification(config).eval().save_pretrained("source")
"""
VIT = """
import torch
from transformers import ViTConfig, ViTForImageClassification
torch.manual_seed(0)
config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
                   patch_size=8, num_labels=3)
ViTForImageClassification(config).eval().save_pretrained("source")
"""


def saved(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_diffusers_model_loads_by_the_lines_of_its_card(hub, rekernel, name, tmp_path):
    ok(rekernel(python=UNET))
    repo = published(hub, rekernel, name, saved(tmp_path / "source"), "--preset", "all")
    said = ok(rekernel(python=pasted(hub, repo) + """
import torch
from diffusers import UNet2DModel
import rekernel.torch as rkt
other = rkt.load(UNet2DModel.from_config("source"), "out")
x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    a, b = model.eval()(x, 10).sample, other.eval()(x, 10).sample
print(tuple(a.shape), torch.equal(a, b), model.conv_in.kernel_size)
"""))  # fmt: skip
    assert said.endswith("(1, 3, 32, 32) True (5, 5)\n")


@pytest.mark.slow
def test_a_vision_transformer_loads_by_transformers_alone_and_answers_as_the_adapter_does(
    hub, rekernel, name, tmp_path
):
    ok(rekernel(python=VIT))
    repo = published(hub, rekernel, name, saved(tmp_path / "source"))
    code = pasted(hub, repo)
    assert "import rekernel" not in code and "rkt" not in code
    assert b"library_name: transformers" in hub.repos[repo].head.files["README.md"].data
    said = ok(rekernel(python=code + """
import torch
from transformers import ViTForImageClassification
import rekernel.torch as rkt
small = ViTForImageClassification.from_pretrained("source").eval()
other = rkt.rescale(small, 2, torch.zeros(1, 3, 32, 32))
x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    a, b = model.eval()(x).logits, other.eval()(x).logits
print(tuple(a.shape), torch.allclose(a, b, atol=1e-6))
"""))  # fmt: skip
    assert said.endswith("(1, 3) True\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["large.push_to_hub({repo!r})", "large.save_pretrained('made', push_to_hub=True, repo_id={repo!r})"]
)
@pytest.mark.parametrize("source", [UNET, RESNET], ids=["diffusers", "transformers"])
def test_what_the_other_library_pushes_loads_by_name(hub, rekernel, name, source, how):
    repo = f"me/{name}-{'resnet' if source is RESNET else 'unet'}-{len(how)}"
    size, kind = (64, "ResNetForImageClassification") if source is RESNET else (16, "UNet2DModel")
    said = ok(rekernel(python=source + f"""
import rekernel.torch as rkt
of = {"'transformers'" if source is RESNET else "'diffusers'"}
small = getattr(__import__(of), "{kind}").from_pretrained("source")
x = torch.rand(1, 3, {2 * size}, {2 * size})
example = torch.zeros(1, 3, {size}, {size})
inputs = example if of == "transformers" else dict(sample=example, timestep=torch.tensor(1))
large = rkt.rescale(small, 2, inputs).eval()
{how.format(repo=repo)}
again = rkt.load_pretrained("{repo}")
given = [model(x) if of == "transformers" else model(x, 1) for model in (large, again)]
print(torch.equal(given[0][0], given[1][0]))
"""))  # fmt: skip
    assert said.endswith("True\n")


@pytest.mark.slow
def test_a_convolutional_transformers_model_loads_by_the_lines_of_its_card(hub, rekernel, name, tmp_path):
    ok(rekernel(python=RESNET))
    repo = published(hub, rekernel, name, saved(tmp_path / "source"))
    said = ok(rekernel(python=pasted(hub, repo) + """
from transformers import ResNetForImageClassification
import torch, rekernel.torch as rkt
other = rkt.load(ResNetForImageClassification.from_pretrained("source"), "out")
x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    print(torch.equal(model.eval()(x).logits, other.eval()(x).logits))
"""))  # fmt: skip
    assert said.endswith("True\n")


@pytest.mark.slow
def test_the_unet_of_a_pipeline_loads_by_name_and_the_rest_is_the_source_s(hub, rekernel, name, tmp_path):
    ok(rekernel(python=PIPELINE))
    source = saved(tmp_path / "source")
    repo = published(hub, rekernel, name, source, "--preset", "inner")
    there = hub.repos[repo].head.files
    assert set(there) == {*source, "README.md", ".gitattributes"}
    changed = {path for path, data in source.items() if there[path].data != data}
    assert "unet/diffusion_pytorch_model.safetensors" in changed
    assert changed <= {"unet/diffusion_pytorch_model.safetensors", "unet/config.json", "model_index.json"}
    assert f'load_pipeline("{repo}")' in pasted(hub, repo)
    said = ok(rekernel(python=f"""
import torch
import rekernel.torch as rkt
from diffusers import UNet2DConditionModel
unet = rkt.load_pretrained("{repo}", model=UNet2DConditionModel.from_config(
    UNet2DConditionModel.load_config("source/unet")), subfolder="unet").eval()
other = rkt.load(UNet2DConditionModel.from_config(unet.config), "out/unet").eval()
x = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    a, b = (m(x, 10, torch.zeros(1, 4, 16)).sample for m in (unet, other))
print(tuple(a.shape), torch.equal(a, b))
"""))  # fmt: skip
    assert said.endswith("(1, 4, 16, 16) True\n")


@pytest.mark.slow
def test_a_pipeline_loads_by_the_lines_of_its_card_and_makes_images_of_the_new_size(hub, rekernel, name, tmp_path):
    made = (
        "from diffusers import DDPMPipeline, DDPMScheduler\n"
        "DDPMPipeline(model, DDPMScheduler()).save_pretrained('source')"
    )
    ok(rekernel(python=UNET.replace('model.save_pretrained("source")', made)))
    repo = published(hub, rekernel, name, saved(tmp_path / "source"), "--preset", "all")
    said = ok(rekernel(python=pasted(hub, repo) + """
pipe.set_progress_bar_config(disable=True)
print(pipe.unet.conv_in.kernel_size, pipe(num_inference_steps=1, output_type="np").images.shape)
"""))  # fmt: skip
    assert said.endswith("(5, 5) (1, 32, 32, 3)\n")
    options = ("--steps", "1", "--count", "1", "--out", tmp_path / "grid.png")
    assert "1 picture of 32x32" in ok(rekernel("sample", f"hf://{repo}@main", *options))
    for address, why in (
        (f"hf://{repo}/unet", "a pipeline is a whole repository; leave out"),
        (f"hf://{repo}@nowhere", "this repository does not have such a branch, tag or commit"),
        ("hf://nobody/nothing", "hf://nobody/nothing"),
    ):
        assert why in rekernel("sample", address, "--out", tmp_path / "none.png").line


@pytest.mark.slow
def test_from_a_text_to_image_folder_to_the_hub_and_back_to_a_picture(hub, rekernel, name, tmp_path):
    ok(rekernel(python=TEXT_TO_IMAGE))
    repo = published(hub, rekernel, name, saved(tmp_path / "source"), "--preset", "inner")
    said = ok(rekernel(python=pasted(hub, repo) + """
pipe.set_progress_bar_config(disable=True)
images = pipe("a cat", num_inference_steps=1, output_type="np").images
print(pipe.unet.mid_block.resnets[0].conv1.kernel_size, images.shape)
"""))  # fmt: skip
    assert said.endswith("(5, 5) (1, 32, 32, 3)\n")
