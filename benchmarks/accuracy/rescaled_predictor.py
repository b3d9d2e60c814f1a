"""How well the fully rescaled diffusion network predicts the low band's noise: what docs/guidance.md says of it.

    python benchmarks/accuracy/rescaled_predictor.py

True glyphs at 32x32 with known noise; the network of examples/glyph_diffusion with every kernel rescaled, at the
matched time and scale, against the blurred noise. Writes results/rescaled_predictor.json.
"""

import json
import sys
from pathlib import Path

import torch
from diffusion import load

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "examples" / "glyphs"))

from render import area_reduce, render_glyphs  # noqa: E402 - beside the classifiers

from rekernel.diffusion import DiscreteSchedule, match  # noqa: E402
from rekernel.diffusion.denoiser.call import read_call  # noqa: E402
from rekernel.diffusion.denoiser.substitutes import ALL, KernelBank, lent  # noqa: E402
from rekernel.diffusion.formulas.blur_band import FilterSplit  # noqa: E402

TIMES, METHODS = (900, 600, 300, 100), ("optimal", "dilate", "cubic")


def main() -> None:
    """Correlation with the true noise, and amplitude over it, by time and method."""
    torch.set_num_threads(1)
    pipe = load()
    unet, schedule = pipe.unet, DiscreteSchedule(pipe.scheduler.alphas_cumprod.double().numpy())
    images, labels = render_glyphs(16, 5, 64)
    clean = torch.from_numpy(area_reduce(images, 2))[:, None] * 2 - 1
    classes = torch.from_numpy(labels)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    split, bank, rows = FilterSplit((32, 32), (2.0, 2.0)), KernelBank(unet), []
    true = split.reduce_grid(noise) / split.gain
    for t in TIMES:
        log_snr = schedule.log_snr(t)
        m = match(schedule, t, split.gain)
        x = float(m.scale) * (float(schedule.alpha(log_snr)) * clean + float(schedule.sigma(log_snr)) * noise)
        tau = torch.tensor(float(m.tau))
        for method in METHODS:
            call = read_call(unet, (x, tau), {"class_labels": classes})
            with torch.no_grad(), lent(bank.substitutes(call, (2.0, 2.0), ALL, method, "factored")):
                found = unet(x, tau, class_labels=classes).sample
            correlation = torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1].item()
            amplitude = (found.std() / true.std()).item()
            rows.append({"t": t, "method": method, "correlation": correlation, "amplitude": amplitude})
            print(f"t = {t:3}  {method:8} correlation {correlation:.2f}, amplitude {amplitude:.2f}")
    (HERE / "results" / "rescaled_predictor.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
