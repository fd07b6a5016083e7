"""Time and memory of a training step: cached latents and fused attention against the released loop.

    python benchmarks/train_step.py [--full] [--steps 8] [--batch 2] [--rounds 2]

All train the released set of parameters of the same network with the same batch, in fp32 on a CPU,
in fp16 autocast on a CUDA GPU. "released" encodes person, agnostic image, DensePose and garment
with the VAE and runs CLIP in every step, and computes attention as a softmax in fp32; "cached"
reads latents and embedding from the cache and uses scaled_dot_product_attention. Both run the
UNet's encoder without gradient; "encoder-gradient" is "cached" with it, for which it trains one
bias more, the last one of the middle block. Each measurement is a process of its own, the ways in
turn; prints the median samples/s, the peak memory and the ratios. Sizes: 64 model channels, 32 in
the VAE and a CLIP of width 64, batch 2 (default), or the released ones, batch 1 (--full; 20 GB of
memory); 512 x 384.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from process_memory import read_peak_memory
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.dataset.samples import Sample  # noqa: E402
from stableviton_core.inference.encoding import Latents, encode_samples  # noqa: E402
from stableviton_core.model.config import AutoencoderConfig, ClipConfig, ModelConfig, NetworkConfig  # noqa: E402
from stableviton_core.model.layers import CrossAttention, split_heads  # noqa: E402
from stableviton_core.model.tryon_model import TryOnModel  # noqa: E402
from stableviton_core.model.vae import build_autoencoder  # noqa: E402
from stableviton_core.training.config import TrainConfig  # noqa: E402
from stableviton_core.training.losses import (  # noqa: E402
    make_model_inputs,
    noise_loss,
    sample_timesteps_and_noise,
)
from stableviton_core.training.trainable_parameters import choose_trainable  # noqa: E402

REDUCED = ModelConfig(
    network=NetworkConfig(model_channels=64, context_dim=96),
    clip=ClipConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        patch_size=32,
    ),
    autoencoder=AutoencoderConfig(model_channels=32),
    mapper_layers=1,
)
HEIGHT, WIDTH = 512, 384
WAYS = ("released", "encoder-gradient", "cached")


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """`layers.attend` with the softmax map in fp32, as the released code computes it."""
    q, k, v = (split_heads(x, num_heads) for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        weights = (q.float() @ k.float().mT * q.shape[-1] ** -0.5).softmax(dim=-1)
    return rearrange(weights.to(v) @ v, "b h n d -> b n (h d)")


def make_samples(batch: int) -> list[Sample]:
    rng = np.random.default_rng(0)

    def image() -> np.ndarray:
        return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)

    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[128:400, 96:288] = 255
    return [Sample(image(), image(), mask, image(), image()) for _ in range(batch)]


def measure(way: str, full: bool, batch: int, steps: int) -> dict[str, float]:
    """Seconds of a step (median, after one of warm-up) and peak bytes."""
    config = ModelConfig() if full else REDUCED
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = torch.float16 if device.type == "cuda" else torch.float32
    model = TryOnModel(config)
    choose_trainable(model, TrainConfig.train_patterns)
    if way == "encoder-gradient":
        train_encoder(model)
    cast_frozen(model, half)
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    # the released size leaves no room for AdamW's state on a small machine; it is the same in both
    optimizer = torch.optim.SGD(trained, lr=1e-4) if full else torch.optim.AdamW(trained, lr=1e-4)
    if way == "released":
        samples = make_samples(batch)
        autoencoder = build_autoencoder(config.autoencoder).eval().requires_grad_(False)
        cast_frozen(autoencoder, half)
        torch.nn.Module.to(autoencoder, device)  # diffusers' own `to` warns about fp16
        for module in model.modules():
            if isinstance(module, CrossAttention):
                module.attention = softmax_attention
    else:
        latents = make_latents(config, batch).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for step in range(steps + 1):
        start = time.perf_counter()
        if way == "released":
            latents = encode_samples(autoencoder, model, samples)
        sampled = sample_timesteps_and_noise(0, step, latents.person.shape, 0.2).to(device)
        with torch.autocast(device.type, half, enabled=half != torch.float32):
            loss = noise_loss(model(**make_model_inputs(latents, sampled)), sampled)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else read_peak_memory()
    return {"seconds": statistics.median(seconds[1:]), "bytes": peak}


def train_encoder(model: TryOnModel) -> None:
    """Train one bias of the UNet's encoder, so that all of it runs with gradient."""
    bias = dict(model.network.unet.middle_block.named_parameters())["2.out_layers.3.bias"]
    bias.requires_grad_(True)


def cast_frozen(module: torch.nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def make_latents(
    config: ModelConfig, batch: int, height: int = HEIGHT, width: int = WIDTH
) -> Latents:
    """Random latents in the shapes of a cached batch, for images of height x width."""
    shape = (batch, 4, height // 8, width // 8)
    keep = torch.ones(batch, 1, *shape[2:])
    keep[:, :, 16:50, 12:36] = 0
    return Latents(
        *(torch.randn(shape) for _ in range(4)),
        keep=keep,
        embedding=torch.randn(batch, 1, config.clip.hidden_size),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="measure only this, and print JSON")
    arguments = parser.parse_args()
    batch = arguments.batch or (1 if arguments.full else 2)
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.full, batch, arguments.steps)))
        return
    measurements: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, f"--steps={arguments.steps}", f"--batch={batch}"]
            full = ["--full"] if arguments.full else []
            done = subprocess.run(
                [*command, *full, f"--way={way}"], check=True, capture_output=True, text=True
            )
            measurements[way].append(json.loads(done.stdout.splitlines()[-1]))
    size = "released size" if arguments.full else "64 model channels"
    print(
        f"{size}, batch {batch}, {WIDTH} x {HEIGHT}, {arguments.rounds} x {arguments.steps} steps"
    )
    print("| way | s / step | samples/s | peak GB |\n|---|---|---|---|")
    speed = {}
    for way, runs in measurements.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        peak = statistics.median(run["bytes"] for run in runs) / 1e9
        speed[way] = batch / seconds
        print(f"| {way} | {seconds:.2f} | {speed[way]:.3f} | {peak:.2f} |")
    for way in WAYS[:-1]:
        print(f"cached over {way}: {speed['cached'] / speed[way]:.2f} x samples/s")


if __name__ == "__main__":
    main()
