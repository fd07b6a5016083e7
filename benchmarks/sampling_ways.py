"""One image of one of the ways that sampling.py compares, in this process.

    python benchmarks/sampling_ways.py WAY WEIGHTS LATENT --steps 50

Prints its figures as JSON and writes its latent. `COMFYUI_PATH` names the host of the ways in it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from host_process import FAST, ROOT, Sampling, load_host, sample
from host_process import RELEASED as RELEASED_SAMPLING
from process_memory import PeakMonitor
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

HEIGHT, WIDTH = 512, 384
BATCH = 1


@dataclass
class Way:
    """One of the host's: what differs from the pack's defaults.

    flags: of ComfyUI. sampling: its steps are those that are asked for, but for FAST's.
    """

    weight_dtype: str = "fp32"
    flags: tuple[str, ...] = ()
    sampling: Sampling = RELEASED_SAMPLING

    @property
    def is_fast(self) -> bool:
        return self.sampling == FAST


HOST_WAYS = {
    "fp32": Way(),
    "fp32, chunked attention": Way(flags=("use_quad_cross_attention",)),
    "fp32, channels-last": Way(flags=("force_channels_last",)),
    "bf16": Way("bf16"),
    "garment_interval 0.2": Way(sampling=replace(RELEASED_SAMPLING, garment_interval=0.2)),
    "deep_every 2": Way(sampling=replace(RELEASED_SAMPLING, deep_every=2)),
    "fast": Way(sampling=FAST),
}
RELEASED, CATVTON = "released loop", "CatVTON's arithmetic"
WAYS = (RELEASED, *HOST_WAYS, CATVTON)


@dataclass
class Figures:
    """Seconds of the three parts of an image, passes of the network, operations of a pass, peak
    bytes resident, and the FLOP/s of a large product of matrices in the way's type."""

    conditioning: float = 0.0
    sampling: float = 0.0
    decoding: float = 0.0
    passes: int = 0
    flops: float = 0.0
    memory: float = 0.0
    peak_flops: float = 0.0


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def timed(figures: Figures, part: str):
    synchronize()
    start = time.perf_counter()
    yield
    synchronize()
    setattr(figures, part, time.perf_counter() - start)


def measure_peak(dtype: torch.dtype, device: torch.device, size: int = 3072) -> float:
    """FLOP/s of the fastest of five products of square matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        with timed(figures := Figures(), "sampling"):
            a @ b
        seconds.append(figures.sampling)
    return 2 * size**3 / min(seconds[1:])


def count_operations(run: Callable[[], object]) -> int:
    """FLOP of matrix products, convolutions and attention."""

    def count_attention(q, k, v, *_, out_shape=None, **__) -> int:
        return sdpa_flop_count(q, k, v)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={on_cpu: count_attention}) as counter:
        run()
    return counter.get_total_flops()


def make_images() -> dict[str, Tensor]:
    """Person, agnostic image, DensePose, garment B x H x W x 3 and mask B x H x W, uint8."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        shape = (BATCH, HEIGHT, WIDTH, 3)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    mask = torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.uint8)
    mask[:, 128:400, 96:288] = 255
    return {name: draw() for name in ("person", "agnostic", "densepose", "garment")} | {
        "mask": mask
    }


def make_noise(rows: int = HEIGHT // 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 4, rows, WIDTH // 8, generator=generator)


def run_released(weights: Path, steps: int) -> tuple[Figures, Tensor]:
    """The released loop, fp32: the garment goes through the VAE in every pass, and the spatial
    encoder makes feature maps that nothing reads."""
    sys.path.insert(0, str(ROOT))
    from tryon import make_released_predictor

    from stableviton_core.dataset.samples import Sample
    from stableviton_core.inference.config import TryOnConfig
    from stableviton_core.inference.encoding import encode_samples
    from stableviton_core.inference.tryons import load_networks
    from stableviton_core.model.vae import decode_latents
    from stableviton_core.plms import plms_timesteps, sample_plms
    from stableviton_core.schedule import start_code

    networks = load_networks(TryOnConfig(checkpoint=weights, output=Path(), dtype="fp32"))
    device = networks.autoencoder.device
    arrays = {name: list(value.numpy()) for name, value in make_images().items()}
    names = ("person", "agnostic", "mask", "densepose", "garment")
    samples = [Sample(*(arrays[name][i] for name in names)) for i in range(BATCH)]
    noise = make_noise().to(device)
    figures = Figures(peak_flops=measure_peak(torch.float32, device))

    def sample(count: int) -> Tensor:
        start = start_code(batch.person, noise)
        return sample_plms(predictor, start, plms_timesteps(count))

    with torch.inference_mode(), PeakMonitor("VmRSS") as monitor:
        with timed(figures, "conditioning"):
            batch = encode_samples(networks.autoencoder, networks.model, samples)
        predictor = make_released_predictor(networks, batch, samples)
        figures.passes = steps + 1
        figures.flops = count_operations(lambda: sample(1)) / 2
        with timed(figures, "sampling"):
            latent = sample(steps)
        with timed(figures, "decoding"):
            decode_latents(networks.autoencoder, latent)
    figures.memory = monitor.peak
    return figures, latent


def run_host(way: Way, weights: Path, steps: int) -> tuple[Figures, Tensor]:
    """The pack in ComfyUI, through its own sampling."""
    with tempfile.TemporaryDirectory() as base:
        module = load_host(base, cpu=not torch.cuda.is_available(), flags=way.flags)
        loaded = module("nodes.host.load_checkpoint").load_checkpoint(weights, way.weight_dtype)
        unet, stableviton, clip_vision, vae = loaded
        encode = module("nodes.host.conditioning").encode_conditioning
        images = {name: value.float() / 255 for name, value in make_images().items()}
        dtype = module("nodes.host.dtypes").WEIGHT_DTYPES[way.weight_dtype]
        figures = Figures(peak_flops=measure_peak(dtype, unet.load_device))

        def run(count: int) -> Tensor:
            sampling = replace(way.sampling, steps=count)
            return sample(module, loaded, sampling, encoded, make_noise())

        with torch.inference_mode(), PeakMonitor("VmRSS") as monitor:
            with timed(figures, "conditioning"):
                encoded = encode(stableviton, clip_vision, vae, **images)
            figures.passes = FAST.steps if way.is_fast else steps + 1
            figures.flops = count_operations(lambda: run(2)) / (2 if way.is_fast else 3)
            with timed(figures, "sampling"):
                latent = run(FAST.steps if way.is_fast else steps)
            with timed(figures, "decoding"):
                vae.decode(latent)
    figures.memory = monitor.peak
    return figures, latent * stableviton.config.autoencoder.latent_scale


def run_catvton(steps: int) -> tuple[Figures, Tensor]:
    """CatVTON (Chong et al., ICLR 2025) with its defaults, by its arithmetic, random weights, fp32:
    the UNet of SD 1.5 without cross-attention on 9 channels, garment and person stacked in height,
    guidance, DDIM. A step counts as two passes."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    class SkipAttention:
        def __call__(self, attention, hidden_states, *args, **kwargs):
            return hidden_states

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(in_channels=9, cross_attention_dim=768, attention_head_dim=8)
    processors = unet.attn_processors
    skipped = {name: SkipAttention() for name in processors if "attn2" in name}
    unet.set_attn_processor(processors | skipped)
    for name, block in unet.named_modules():
        if name.endswith("attn2"):
            block.to_q = block.to_k = block.to_v = block.to_out = None
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    unet.eval().requires_grad_(False).to(device)
    autoencoder.eval().requires_grad_(False).to(device)
    images = make_images()
    figures = Figures(peak_flops=measure_peak(torch.float32, device))

    def encode(image: Tensor) -> Tensor:
        pixels = rearrange(image, "b h w c -> b c h w").float() / 127.5 - 1
        return autoencoder.encode(pixels.to(device)).latent_dist.mode()

    def sample(count: int) -> Tensor:
        x = make_noise(2 * HEIGHT // 8).to(device)
        scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear")
        scheduler.set_timesteps(count)
        for t in scheduler.timesteps:
            inputs = torch.cat([x.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1, 1), latents], dim=1)
            unconditional, conditional = unet(inputs, t, None).sample.chunk(2)
            noise = unconditional + 2.5 * (conditional - unconditional)
            x = scheduler.step(noise, t, x).prev_sample
        return x

    with torch.inference_mode(), PeakMonitor("VmRSS") as monitor:
        with timed(figures, "conditioning"):
            person, garment = encode(images["agnostic"]), encode(images["garment"])
        latents = torch.cat(
            [torch.cat([person, torch.zeros_like(garment)], 2), torch.cat([person, garment], 2)]
        )
        mask = torch.zeros_like(latents[:BATCH, :1])
        mask[:, :, : HEIGHT // 8] = 1
        figures.passes = 2 * steps
        figures.flops = count_operations(lambda: sample(1)) / 2
        with timed(figures, "sampling"):
            latent = sample(steps)
        with timed(figures, "decoding"):
            autoencoder.decode(latent[:, :, : HEIGHT // 8])
    figures.memory = monitor.peak
    return figures, latent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("weights", type=Path)
    parser.add_argument("latent", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.way == RELEASED:
        figures, latent = run_released(arguments.weights, arguments.steps)
    elif arguments.way == CATVTON:
        figures, latent = run_catvton(arguments.steps)
    else:
        way = HOST_WAYS[arguments.way]
        figures, latent = run_host(way, arguments.weights, arguments.steps)
    save_file({"latent": latent.float().cpu().contiguous()}, arguments.latent)
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()
