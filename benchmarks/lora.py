"""LoRA against full fine-tuning, on single garments that the demo checkpoint never saw.

    python benchmarks/lora.py [--checkpoint FILE] [--seconds 15] [--height 128]

Eight drawn garments. Of each, 1 to 5 images of persons who wear it are trained on, by both methods
for the same time (of one CPU core): the steps follow from their measured speed, without encoding.
Measured on other persons in that garment, from their agnostic images (PLMS, 20 steps, from pure
noise, guidance 1): SSIM inside the mask, as in demo_quality.py. The learning rate of each method is
the best of two on a ninth garment. Prints tables.
"""

import argparse
import gc
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from demo_quality import average_inside, compute_ssim_maps  # noqa: E402

from stableviton_core.inference.encoding import encode_samples  # noqa: E402
from stableviton_core.inference.sampling import draw_noise, sample_tryon  # noqa: E402
from stableviton_core.model.convert import convert  # noqa: E402
from stableviton_core.model.pretrained import load_model  # noqa: E402
from stableviton_core.model.vae import decode_latents  # noqa: E402
from stableviton_core.synthetic.draw_garment import generate_garment  # noqa: E402
from stableviton_core.synthetic.draw_person import generate_person  # noqa: E402
from stableviton_core.synthetic.renderer import SyntheticSample, render_sample  # noqa: E402
from stableviton_core.synthetic.write_dataset import write_pairs, write_split  # noqa: E402
from stableviton_core.training.checkpointing import WEIGHTS  # noqa: E402
from stableviton_core.training.config import TrainConfig  # noqa: E402
from stableviton_core.training.lora import LORA  # noqa: E402
from stableviton_core.training.trainer import Trainer  # noqa: E402

SEED = 20_000_000  # far from those of the demo checkpoint's recipe
GARMENTS = (  # pattern and number of images to train on
    ("letter", 1),
    ("stripes", 2),
    ("patchwork", 3),
    ("shape", 4),
    ("checks", 5),
    ("dots", 1),
    ("letter", 3),
    ("patchwork", 5),
)
TUNING = ("shape", 3)
HELD_OUT = 6
CALIBRATION_STEPS = 10
METHODS: dict[str, dict[str, Any]] = {"LoRA": {"lora_rank": 8}, "full": {}}
RATES = {"LoRA": (1e-3, 3e-3), "full": (1e-4, 3e-4)}


@dataclass(frozen=True)
class Wardrobe:
    """A garment: the folder of its training data, and other persons who wear it."""

    data: Path
    held_out: list[SyntheticSample]


def write_wardrobe(data: Path, seed: int, pattern: str, count: int, height: int) -> Wardrobe:
    rng = np.random.default_rng(seed)
    garment = generate_garment(rng, (pattern,))
    samples = [
        render_sample(generate_person(rng), garment, height) for _ in range(count + HELD_OUT)
    ]
    names = write_split(data / "train", [[sample] for sample in samples[:count]], count)
    write_pairs(data / "train_pairs.txt", [(name, name) for (name,) in names])
    return Wardrobe(data, samples[count:])


def finetune(
    wardrobe: Wardrobe, checkpoint: Path, output: Path, height: int, steps: int, **changes: Any
) -> tuple[Path, float]:
    """Train -> the checkpoint of the result, with a LoRA merged into it, and the seconds of its
    steps."""
    config = TrainConfig(
        data=wardrobe.data,
        init=checkpoint,
        output=output,
        height=height,
        width=height * 3 // 4,
        train_batch_size=4,
        max_train_steps=steps,
        checkpointing_steps=steps,
        loss_weighting="snr",
        augmentation=False,
        validation_steps=0,
        save_dtype="fp32",
        **changes,
    )
    with redirect_stdout(sys.stderr):
        run = Trainer(config)
        start = time.process_time()
        folder = run.train()
        seconds = time.process_time() - start
    if not config.lora_rank:
        return folder / WEIGHTS, seconds
    merged = output / "merged.safetensors"
    convert(checkpoint, merged, "fp32", [folder / LORA])
    return merged, seconds


@torch.no_grad()
def measure_ssim(checkpoint: Path, held_out: list[SyntheticSample]) -> float:
    model, autoencoder, _ = load_model(checkpoint)
    batch = encode_samples(autoencoder, model.eval(), held_out)
    names = [str(index) for index in range(len(held_out))]
    noise = draw_noise(names, batch.person.shape[1:], seed=0)
    results = decode_latents(autoencoder, sample_tryon(model, batch, noise, 20, start="noise"))
    truth = np.stack([sample.image for sample in held_out])
    masks = np.stack([sample.mask for sample in held_out])
    return average_inside(compute_ssim_maps(results, truth), masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "demo" / "stableviton-demo.safetensors"
    parser.add_argument("--checkpoint", type=Path, default=default)
    parser.add_argument("--seconds", type=float, default=15, help="of training, each")
    parser.add_argument("--height", type=int, default=128, help="a multiple of 32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments.checkpoint, Path(folder), arguments.seconds, arguments.height)


def compare(checkpoint: Path, folder: Path, seconds: float, height: int) -> None:
    def run(wardrobe: Wardrobe, method: str, rate: float, steps: int) -> tuple[float, float]:
        """SSIM after training, and its seconds."""
        gc.collect()
        output = Path(tempfile.mkdtemp(dir=folder))
        changes = METHODS[method] | {"learning_rate": rate}
        result, took = finetune(wardrobe, checkpoint, output, height, steps, **changes)
        return measure_ssim(result, wardrobe.held_out), took

    pattern, count = TUNING
    tuning = write_wardrobe(folder / "tuning", SEED, pattern, count, height)
    steps, best = {}, {}
    for method, rates in RATES.items():
        _, took = run(tuning, method, rates[0], CALIBRATION_STEPS)
        steps[method] = max(1, round(seconds / took * CALIBRATION_STEPS))
        scores = {rate: run(tuning, method, rate, steps[method])[0] for rate in rates}
        best[method] = max(scores, key=lambda rate: scores[rate])
        listed = ", ".join(f"{rate:g}: {score:.3f}" for rate, score in scores.items())
        print(f"{method}: {steps[method]} steps, learning rate {listed}", flush=True)
    print(f"tuning garment before: {measure_ssim(checkpoint, tuning.held_out):.3f}\n")

    print("| garment | images | before | LoRA | full | seconds LoRA | seconds full |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for index, (pattern, count) in enumerate(GARMENTS):
        seed = SEED + 1 + index
        wardrobe = write_wardrobe(folder / f"garment{index}", seed, pattern, count, height)
        before = measure_ssim(checkpoint, wardrobe.held_out)
        after = {m: run(wardrobe, m, best[m], steps[m]) for m in METHODS}
        scores, times = zip(*after.values(), strict=True)
        rows.append((before, *scores, *times))
        figures = " | ".join(f"{value:.3f}" for value in (before, *scores))
        print(f"| {pattern} | {count} | {figures} | {times[0]:.0f} | {times[1]:.0f} |", flush=True)
    medians = [median(column) for column in zip(*rows, strict=True)]
    figures = " | ".join(f"{value:.3f}" for value in medians[:3])
    print(f"| median | | {figures} | {medians[3]:.0f} | {medians[4]:.0f} |")
    gains = [[row[column] - row[0] for row in rows] for column in (1, 2)]
    print(f"median gain: LoRA {median(gains[0]):+.3f}, full {median(gains[1]):+.3f}")


if __name__ == "__main__":
    main()
