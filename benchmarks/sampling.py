"""Time and memory of an image in ComfyUI: the released loop, the pack, its options, CatVTON.

    COMFYUI_PATH=... python benchmarks/sampling.py [WAY ...] [--steps 50] [--rounds 3]
        [--folder DIR]

Released size, seeded weights (random ones for CatVTON), the same images and noise, 512 x 384, batch
1, PLMS, no guidance (CatVTON: DDIM with guidance, two passes a step); on a CUDA GPU where there is
one, else on the CPU. Every image is a process of its own, the ways in turn; medians over rounds.
An image: conditioning, sampling and decoding; of 50 steps, from `--steps` of them and the time of a
pass. Operations: matrix products, convolutions and attention; their rate as a share of the fastest
product of large matrices in the run. Memory: resident, from conditioning to decoding.
Difference: of the final latent after `--steps` steps from the released loop's, over its standard
deviation; for ways with fewer steps or reused features see fast_sampling.py. --folder keeps the
weights (11 GB) for another time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from full_size import write_full_size
from safetensors.torch import load_file
from sampling_ways import CATVTON, HOST_WAYS, RELEASED, WAYS, Figures

STEPS = 50


def measure(way: str, folder: Path, steps: int) -> Figures:
    dtype = HOST_WAYS[way].weight_dtype if way in HOST_WAYS else "fp32"
    weights = folder / f"{dtype}.safetensors"
    if not weights.is_file():
        write_full_size(weights, dtype)
    script = Path(__file__).with_name("sampling_ways.py")
    command = [sys.executable, str(script), way, str(weights), str(find_latent(way, folder))]
    done = subprocess.run(
        [*command, f"--steps={steps}"], check=True, stdout=subprocess.PIPE, text=True
    )
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def find_latent(way: str, folder: Path) -> Path:
    return folder / f"latent-{WAYS.index(way)}.safetensors"


def compute_image_seconds(way: str, figures: Figures, steps: int) -> float:
    """Of an image of STEPS steps, or of those of the fast way."""
    complete = way in HOST_WAYS and HOST_WAYS[way].is_fast
    passes = {CATVTON: 2 * STEPS}.get(way, STEPS + 1)
    scale = 1.0 if complete else passes / figures.passes
    return figures.conditioning + scale * figures.sampling + figures.decoding


def compute_differences(way: str, folder: Path) -> str:
    """Largest and mean."""
    host_way = HOST_WAYS.get(way)
    if way == CATVTON or (host_way and host_way.is_fast):
        return "|"
    expected = load_file(find_latent(RELEASED, folder))["latent"]
    difference = (load_file(find_latent(way, folder))["latent"] - expected).abs()
    largest, mean = difference.max() / expected.std(), difference.mean() / expected.std()
    return f"{largest:.1e} | {mean:.1e}"


def print_table(rounds: dict[str, list[Figures]], folder: Path, steps: int) -> None:
    print(
        "| way | s a pass | ratio | conditioning s | decoding s | s an image | ratio | memory GB | "
        "ratio | TFLOP a pass | share of peak | largest difference | mean |"
    )
    print("|---" * 13 + "|")
    seconds, images, memory = {}, {}, {}
    peak = max(run.peak_flops for runs in rounds.values() for run in runs)
    for way, runs in rounds.items():
        middle = Figures(
            **{f.name: statistics.median(getattr(r, f.name) for r in runs) for f in fields(Figures)}
        )
        seconds[way] = [run.sampling / run.passes for run in runs]
        images[way] = [compute_image_seconds(way, run, steps) for run in runs]
        memory[way] = [run.memory for run in runs]
        pass_seconds = statistics.median(seconds[way])
        share = middle.flops / pass_seconds / peak
        reused = way in HOST_WAYS and HOST_WAYS[way].sampling.deep_every > 1
        print(
            f"| {way} | {pass_seconds:.2f} | {compute_ratio(seconds, way):.2f} | "
            f"{middle.conditioning:.1f} | {middle.decoding:.1f} | "
            f"{statistics.median(images[way]):.0f} | {compute_ratio(images, way):.2f} | "
            f"{middle.memory / 1e9:.1f} | {1 / compute_ratio(memory, way):.2f} | "
            + (" | |" if reused else f"{middle.flops / 1e12:.2f} | {share:.0%} |")
            + f" {compute_differences(way, folder)} |"
        )


def compute_ratio(series: dict[str, list[float]], way: str) -> float:
    """Median over rounds of the released loop's figure over a way's."""
    pairs = zip(series[RELEASED], series[way], strict=True)
    return statistics.median(released / value for released, value in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS[1:])}")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.ways) - set(WAYS):
        parser.error(f"no such way: {', '.join(sorted(unknown))}")
    ways = [RELEASED, *(arguments.ways or WAYS[1:])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rounds: dict[str, list[Figures]] = {way: [] for way in ways}
        for number in range(arguments.rounds):
            for way in ways:
                rounds[way].append(measure(way, folder, arguments.steps))
                print(f"round {number + 1}: {way}: {rounds[way][-1]}", file=sys.stderr)
        print(f"{arguments.steps} steps measured, {arguments.rounds} rounds")
        print_table(rounds, folder, arguments.steps)


if __name__ == "__main__":
    main()
