"""What finding out about a person costs, and what it looks like.

    python benchmarks/person.py [PHOTO ...] [--repeats 10] [--sheet FILE]

Milliseconds a photo of every step on the CPU, at the working size 384 x 512, as medians; a batch of
eight against eight single runs; and how much memory the process has taken beyond what it had
before the first step. Photos: those given, or the demo's. The sheet has a row a photo: photo,
skeleton, parse, DensePose, mask, agnostic image.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.images import fill_agnostic_region  # noqa: E402
from stableviton_core.person.agnostic import (  # noqa: E402
    densepose_mask,
    parse_pose_mask,
    viton_hd_mask,
)
from stableviton_core.person.analysis import analysed, box_of, chosen_body  # noqa: E402
from stableviton_core.person.blazepose import detect, find_body  # noqa: E402
from stableviton_core.person.crop import crop, fit, stitch  # noqa: E402
from stableviton_core.person.densepose import colour_parts, decode_parts  # noqa: E402
from stableviton_core.person.garment import flat_garment, garment_mask  # noqa: E402
from stableviton_core.person.labels import colour_labels, decode_labels  # noqa: E402
from stableviton_core.person.masking import Known, MaskOptions, agnostic_mask  # noqa: E402
from stableviton_core.person.prepare import read_photo  # noqa: E402
from stableviton_core.person.segment import person_mask  # noqa: E402
from stableviton_core.person.skeleton import draw_skeleton  # noqa: E402

HEIGHT, WIDTH = 512, 384
BATCH = 8


def resident_megabytes() -> float:
    """Of this process, where the system tells (Linux)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def working(photo: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(photo)[None].float() / 255
    picture, _ = crop(fit(tensor, HEIGHT, WIDTH, box_of(chosen_body(photo))), HEIGHT, WIDTH)
    return (picture[0].numpy() * 255).round().astype(np.uint8)


def steps(photo: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is timed, by name, on one photo."""
    tensor = torch.from_numpy(photo)[None].float() / 255
    frame = fit(tensor, HEIGHT, WIDTH, box_of(chosen_body(photo)))
    picture, _ = crop(frame, HEIGHT, WIDTH)
    image = working(photo)
    detection, found = detect(image)[0], analysed(image)
    body = torch.from_numpy(agnostic_mask(image, Known(), MaskOptions())[0])[None].float()
    parts, labels = colour_parts(found.parts), colour_labels(found.parse)
    return {
        "frame around the person": lambda: working(photo),
        "detect persons": lambda: detect(image),
        "pose and outline of one": lambda: find_body(image, detection),
        "mask of everyone": lambda: person_mask(image),
        "pose, outline, parse and parts": lambda: analysed(image),
        "read a DensePose image": lambda: decode_parts(parts),
        "read a label image": lambda: decode_labels(labels, "viton-hd"),
        "rule viton-hd": lambda: viton_hd_mask(found.parse, found.pose),
        "rule parse+pose": lambda: parse_pose_mask(found.parse, found.pose),
        "rule densepose": lambda: densepose_mask(found.parts),
        "agnostic mask from the photo alone": lambda: agnostic_mask(image, Known(), MaskOptions()),
        "garment cut out and laid flat": lambda: flat_garment(
            image, garment_mask(image), HEIGHT, WIDTH
        ),
        "back into the photo": lambda: stitch(frame, picture, body),
    }


def milliseconds(step: Callable[[], object], repeats: int) -> float:
    step()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


def row(photo: np.ndarray) -> np.ndarray:
    image = working(photo)
    found = analysed(image)
    mask, _ = agnostic_mask(image, Known(), MaskOptions())
    pictures = (
        image,
        draw_skeleton(found.pose, HEIGHT, WIDTH),
        colour_labels(found.parse),
        colour_parts(found.parts),
        np.where(mask[..., None], np.uint8(255), np.zeros_like(image)),
        fill_agnostic_region(image, mask),
    )
    return np.concatenate(pictures, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="*", type=Path, default=[ROOT / "demo" / "photo.jpg"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    photos = [read_photo(path) for path in arguments.photos]
    before = resident_megabytes()
    height, width = photos[0].shape[:2]
    print(f"photo of {width} x {height}, working size {WIDTH} x {HEIGHT}, CPU")
    print("| step | ms, median |\n|---|---|")
    for name, step in steps(photos[0]).items():
        print(f"| {name} | {milliseconds(step, arguments.repeats):.1f} |")
    image = working(photos[0])
    single = milliseconds(lambda: analysed(image), arguments.repeats)
    eight = milliseconds(lambda: [analysed(image) for _ in range(BATCH)], arguments.repeats)
    print(f"\na batch of {BATCH}: {eight:.0f} ms, {eight / single:.1f} times one photo")
    print(f"memory beyond the start's {before:.0f} MB: {resident_megabytes() - before:.0f} MB")
    if arguments.sheet:
        sheet = Image.fromarray(np.concatenate([row(photo) for photo in photos]))
        sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(
            arguments.sheet
        )


if __name__ == "__main__":
    main()
