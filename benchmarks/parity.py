"""How far the network is from the authors' outputs in tests/golden.

    python benchmarks/parity.py [--full]

Largest absolute difference in units of the output's standard deviation, fp32 on the CPU.
--full: the released size (9 GB of memory).
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import golden  # noqa: E402
from stableviton_core.model.config import NetworkConfig  # noqa: E402


def rows(network, case: str, batch: int, size: tuple[int, int], steps: tuple[int, ...], stored):
    context_dim = network.config.context_dim
    x, garment, context = golden.golden_inputs(case, batch, *size, context_dim)
    timesteps = torch.tensor(steps)
    stride = (slice(None), slice(None, None, 8), slice(None, None, 2), slice(None, None, 2))
    if case == "full":
        stride = (slice(None), slice(None, None, 40), slice(None, None, 4), slice(None, None, 4))
    features = network.encoder(x, timesteps, context, garment)
    worst = max(
        golden.error(feature[stride], stored[f"{case}/feature.{index}"])
        for index, feature in enumerate(features)
    )
    eps = network(x, timesteps, context, garment)
    yield f"{case}: garment features", worst
    yield f"{case}: predicted noise", golden.error(eps, stored[f"{case}/eps"])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    full = parser.parse_args().full
    print("| output | largest difference / standard deviation |\n|---|---|")
    network, stored = golden.golden_network(golden.REDUCED), golden.stored("reduced")
    for case, (batch, height, width, steps) in golden.CASES.items():
        for name, error in rows(network, case, batch, (height, width), steps, stored):
            print(f"| {name} | {error:.1e} |")
    if full:
        network = golden.golden_network(NetworkConfig())
        for name, error in rows(network, "full", 1, (64, 48), (981,), golden.stored("full")):
            print(f"| {name} | {error:.1e} |")


if __name__ == "__main__":
    main()
