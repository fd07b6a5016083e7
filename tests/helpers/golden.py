"""The authors' outputs, and the weights and inputs they were made from (tests/golden/README.md)."""

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stableviton_core.model.config import NetworkConfig
from stableviton_core.model.zero_cross_attention import TryOnNetwork

FOLDER = Path(__file__).resolve().parent.parent / "golden"

REDUCED = NetworkConfig(model_channels=64, context_dim=96)

# case: (batch, rows, columns of the latent, timesteps)
CASES = {"a": (2, 64, 48, (981, 401)), "b": (1, 48, 64, (1,)), "c": (1, 40, 32, (999,))}


def fill(name: str, shape: tuple[int, ...], scale: float = 1) -> Tensor:
    """Uniform values of mean 0 and standard deviation `scale`, a function of the name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = generator.random(math.prod(shape), dtype=np.float32) - np.float32(0.5)
    return torch.from_numpy(values * np.float32(2 * math.sqrt(3) * scale)).reshape(shape)


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The parameter of a checkpoint key."""
    if key == "learnable_vector":
        return fill(key, shape)
    if key.endswith(".bias"):
        return fill(key, shape, 0.02)
    if len(shape) == 1:
        return 1 + fill(key, shape, 0.1)
    if "position_embedding" in key:
        return fill(key, shape, 0.02)
    return fill(key, shape, 1 / math.sqrt(math.prod(shape[1:])))


def fill_weights(module: nn.Module, prefix: str) -> None:
    """Load golden weights into a module whose keys follow `prefix` in a checkpoint."""
    weights = {key: weight(prefix + key, tuple(v.shape)) for key, v in module.state_dict().items()}
    module.load_state_dict(weights, strict=True, assign=True)


def golden_network(config: NetworkConfig) -> TryOnNetwork:
    with torch.device("meta"):
        network = TryOnNetwork(config)
    fill_weights(network.unet, "model.diffusion_model.")
    fill_weights(network.zero_cross_attention, "model.diffusion_model.")
    fill_weights(network.encoder, "control_model.")
    return network.eval()


def golden_inputs(case: str, batch: int, rows: int, columns: int, context_dim: int):
    """x, garment latent, context of a case."""
    return (
        fill(f"input/{case}/x", (batch, 13, rows, columns)),
        fill(f"input/{case}/hint", (batch, 4, rows, columns)),
        fill(f"input/{case}/context", (batch, 1, context_dim)),
    )


def make_pixel_files() -> dict[str, np.ndarray]:
    """The files of `pixel_path`, 1024 x 768: person and densepose H x W x 3, mask H x W, uint8."""
    y, x = np.mgrid[:1024, :768]
    mask = np.where(((y - 503) / 301) ** 2 + ((x - 379) / 187) ** 2 <= 1, 255, 0).astype(np.uint8)
    mask[700:711, 100:300] = 127  # kept
    mask[720:731, 100:300] = 128  # changed

    def image(name: str) -> np.ndarray:
        values = fill(f"input/pixel/{name}", (1024, 768, 3)).numpy() * 0.25 + 0.5
        return (values * 255).round().clip(0, 255).astype(np.uint8)

    return {"person": image("person"), "densepose": image("densepose"), "mask": mask}


def read_golden(file: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{file}.safetensors")


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference in units of the expected values' standard deviation."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    return ((actual.float() - expected.float()).abs().max() / expected.float().std()).item()
