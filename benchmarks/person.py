"""Time and memory of the person analysis, and an image grid of its results.

    python benchmarks/person.py [PHOTO ...] [--repeats 10] [--grid FILE]

Median milliseconds of every step for one photo on the CPU, at the working size 384 x 512; a batch
of eight; and the memory that the process took in addition since before the first step. Photos:
those given, or the demo's. The grid has a row per photo: photo, skeleton, parse, DensePose, mask,
agnostic image.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from process_memory import read_peak_memory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.image_tensors import to_arrays, to_images  # noqa: E402
from stableviton_core.images import fill_agnostic_region, make_image_grid, read_image, write_image  # noqa: E402
from stableviton_core.person.agnostic import RULES, MaskOptions, PersonInputs, make_agnostic_mask  # noqa: E402
from stableviton_core.person.analysis import analyze_person  # noqa: E402
from stableviton_core.person.blazepose import detect_persons, estimate_body  # noqa: E402
from stableviton_core.person.crop import CropRegion, crop, find_crop_region  # noqa: E402
from stableviton_core.person.crop_box import find_person_box, select_body  # noqa: E402
from stableviton_core.person.densepose import colour_parts, decode_parts  # noqa: E402
from stableviton_core.person.garment import place_on_white, segment_garment  # noqa: E402
from stableviton_core.person.labels import colour_labels, decode_labels  # noqa: E402
from stableviton_core.person.networks import segment_people  # noqa: E402
from stableviton_core.person.skeleton import draw_skeleton  # noqa: E402
from stableviton_core.person.stitch import stitch  # noqa: E402

HEIGHT, WIDTH = 512, 384
BATCH = 8


def crop_person(photo: np.ndarray) -> tuple[CropRegion, torch.Tensor]:
    """The region around the person, and the image 1 x HEIGHT x WIDTH x 3 in 0..1."""
    region = find_crop_region(
        to_images([photo]), HEIGHT, WIDTH, find_person_box(select_body(photo))
    )
    return region, crop(region, HEIGHT, WIDTH)[0]


def list_steps(photo: np.ndarray) -> dict[str, Callable[[], object]]:
    """The timed steps by name, on one photo."""
    region, working = crop_person(photo)
    (image,) = to_arrays(working)
    detection, person = detect_persons(image)[0], analyze_person(image)
    inputs = PersonInputs(person.pose, person.parse, parts=person.parts)
    mask = torch.from_numpy(make_agnostic_mask(image, inputs, MaskOptions())[0])[None].float()
    parts, labels = colour_parts(person.parts), colour_labels(person.parse)
    rules = {
        f"rule {name}": partial(rule.apply, inputs, MaskOptions()) for name, rule in RULES.items()
    }
    return {
        "crop around the person": lambda: crop_person(photo),
        "detect persons": lambda: detect_persons(image),
        "pose and outline of one": lambda: estimate_body(image, detection),
        "mask of everyone": lambda: segment_people(image),
        "pose, outline, parse and parts": lambda: analyze_person(image),
        "decode a DensePose image": lambda: decode_parts(parts),
        "decode a label image": lambda: decode_labels(labels, "viton-hd"),
        **rules,
        "agnostic mask from the photo alone": lambda: make_agnostic_mask(
            image, PersonInputs(), MaskOptions()
        ),
        "garment segmented and placed on white": lambda: place_on_white(
            image, segment_garment(image), HEIGHT, WIDTH
        ),
        "stitch into the photo": lambda: stitch(region, working, mask),
    }


def time_step(step: Callable[[], object], repeats: int) -> float:
    """Median milliseconds, after one warm-up."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def draw_row(photo: np.ndarray) -> np.ndarray:
    (image,) = to_arrays(crop_person(photo)[1])
    person = analyze_person(image)
    mask, _ = make_agnostic_mask(image, PersonInputs(person.pose, person.parse), MaskOptions())
    images = (
        image,
        draw_skeleton(person.pose, HEIGHT, WIDTH),
        colour_labels(person.parse),
        colour_parts(person.parts),
        np.where(mask[..., None], np.uint8(255), np.zeros_like(image)),
        fill_agnostic_region(image, mask),
    )
    return make_image_grid(*([image] for image in images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="*", type=Path, default=[ROOT / "demo" / "photo.jpg"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--grid", type=Path)
    arguments = parser.parse_args()
    photos = [read_image(path) for path in arguments.photos]
    before = read_peak_memory() / 2**20
    height, width = photos[0].shape[:2]
    print(f"photo of {width} x {height}, working size {WIDTH} x {HEIGHT}, CPU")
    print("| step | ms, median |\n|---|---|")
    for name, step in list_steps(photos[0]).items():
        print(f"| {name} | {time_step(step, arguments.repeats):.1f} |")
    (image,) = to_arrays(crop_person(photos[0])[1])
    single = time_step(lambda: analyze_person(image), arguments.repeats)
    eight = time_step(lambda: [analyze_person(image) for _ in range(BATCH)], arguments.repeats)
    print(f"\na batch of {BATCH}: {eight:.0f} ms, {eight / single:.1f} times one photo")
    beyond = read_peak_memory() / 2**20 - before
    print(f"memory beyond {before:.0f} MB at the start: {beyond:.0f} MB")
    if arguments.grid:
        grid = np.concatenate([draw_row(photo) for photo in photos])
        write_image(
            arguments.grid, cv2.resize(grid, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        )


if __name__ == "__main__":
    main()
