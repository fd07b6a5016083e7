"""Images/s of the command `tryon` against the released inference loop.

    python benchmarks/tryon.py [--small] [--steps 10] [--batch 1] [--rounds 3]

The released loop, written from its description with the same modules, encodes the garment with the
VAE again in every pass of the network; `tryon` encodes it once. Both take the same samples, weights
and noise in fp32 and go from decoded images to result images, alternating within one process;
prints the medians, the largest difference of their latents and the peak memory of each. CPU s is
the time of all threads, which other processes on the machine disturb less. Sizes: the
released ones (10 GB of memory), or 64 model channels, 32 in the VAE and a CLIP of width 64
(--small); 512 x 384. Weights are random. On a CUDA GPU memory is the GPU's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from process_memory import PeakMonitor
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from train_step import HEIGHT, REDUCED, WIDTH, make_samples  # noqa: E402

from stableviton_core.dataset.samples import Sample  # noqa: E402
from stableviton_core.devices import choose_device  # noqa: E402
from stableviton_core.inference.config import TryOnConfig  # noqa: E402
from stableviton_core.inference.encoding import Latents, encode_samples  # noqa: E402
from stableviton_core.inference.sampling import draw_noise, make_noise_predictor  # noqa: E402
from stableviton_core.inference.tryons import Networks, sample_latents  # noqa: E402
from stableviton_core.model.config import ModelConfig  # noqa: E402
from stableviton_core.model.tryon_model import TryOnModel  # noqa: E402
from stableviton_core.model.vae import build_autoencoder, decode_latents, encode_images  # noqa: E402
from stableviton_core.plms import plms_timesteps, sample_plms  # noqa: E402
from stableviton_core.schedule import start_code  # noqa: E402


def make_released_predictor(
    networks: Networks, batch: Latents, samples: list[Sample]
) -> Callable[[Tensor, int], Tensor]:
    """As `make_noise_predictor`, with the garment encoded in every pass."""
    garments = np.stack([sample.garment for sample in samples])

    def predict_noise(x: Tensor, t: int) -> Tensor:
        garment = encode_images(networks.autoencoder, garments)
        return make_noise_predictor(networks.model, replace(batch, garment=garment))(x, t)

    return predict_noise


@torch.inference_mode()
def run_released_loop(
    networks: Networks, samples: list[Sample], names: list[str], config: TryOnConfig
) -> Tensor:
    """As `sample_latents`, with the predictor of the released loop."""
    batch = encode_samples(networks.autoencoder, networks.model, samples)
    predict_noise = make_released_predictor(networks, batch, samples)
    noise = draw_noise(names, batch.person.shape[1:], config.seed).to(batch.person)
    return sample_plms(predict_noise, start_code(batch.person, noise), plms_timesteps(config.steps))


WAYS: dict[str, Callable[..., Tensor]] = {"released": run_released_loop, "tryon": sample_latents}


def measure(way: str, networks: Networks, samples: list[Sample], config: TryOnConfig):
    """Seconds for all samples, CPU seconds, peak bytes, latents."""
    names = [str(index) for index in range(len(samples))]
    on_gpu = networks.autoencoder.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with PeakMonitor("VmRSS") as monitor:
        start, cpu_start = time.perf_counter(), time.process_time()
        latents = WAYS[way](networks, samples, names, config)
        decode_latents(networks.autoencoder, latents)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    peak = torch.cuda.max_memory_allocated() if on_gpu else monitor.peak
    return seconds, cpu, peak, latents.cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model_config, device = REDUCED if arguments.small else ModelConfig(), choose_device("auto")
    networks = Networks(
        TryOnModel(model_config).eval().requires_grad_(False).to(device),
        build_autoencoder(model_config.autoencoder).eval().requires_grad_(False).to(device),
    )
    samples = make_samples(arguments.batch)
    config = TryOnConfig(checkpoint=Path(), output=Path(), steps=arguments.steps)
    measure("tryon", networks, samples[:1], replace(config, steps=1))  # warm-up
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks: dict[str, list[float]] = {way: [] for way in WAYS}
    latents = {}
    for _ in range(arguments.rounds):
        for way in WAYS:
            *figures, latents[way] = measure(way, networks, samples, config)
            for series, figure in zip((seconds, cpu, peaks), figures, strict=True):
                series[way].append(figure)
    size = "64 model channels" if arguments.small else "released size"
    print(
        f"{size}, batch {arguments.batch}, {WIDTH} x {HEIGHT}, {arguments.steps} steps, fp32, "
        f"{device.type}, {arguments.rounds} rounds"
    )
    print("| way | s | images/s | CPU s | peak GB |\n|---|---|---|---|---|")
    for way in WAYS:
        median = statistics.median(seconds[way])
        rate, peak = arguments.batch / median, statistics.median(peaks[way]) / 1e9
        work = statistics.median(cpu[way])
        print(f"| {way} | {median:.2f} | {rate:.4f} | {work:.2f} | {peak:.2f} |")
    ratio, cpu_ratio = (
        statistics.median(
            released / ours
            for released, ours in zip(series["released"], series["tryon"], strict=True)
        )
        for series in (seconds, cpu)
    )
    error = (latents["tryon"] - latents["released"]).abs().max() / latents["released"].std()
    print(f"tryon over released: {ratio:.2f} x images/s, {cpu_ratio:.2f} by CPU time")
    print(f"largest difference of the latents: {error:.1e} of their standard deviation")


if __name__ == "__main__":
    main()
