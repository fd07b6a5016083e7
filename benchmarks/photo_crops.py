"""Crop and stitch on photos of people: pixels on the garment, and what a round trip loses.

    python benchmarks/photo_crops.py [PHOTO ...]

Without photos: those of skimage and of comfyui_workflow_templates_media_image (generated people) in
which the shipped networks find a person who stands and is seen from head to feet. Enlargement: how
many times as many pixels in each direction an upper garment has in a crop around it as in one
around the person. PSNR inside the agnostic mask of a photo that was cropped and stitched back
unchanged, at the photo's size, against one resampling there and back (Pillow, Lanczos) and at a
working image of the region's own size.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from photo_files import list_photos
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stableviton_core.errors import StableVITONError  # noqa: E402
from stableviton_core.image_tensors import to_arrays, to_images  # noqa: E402
from stableviton_core.images import read_image  # noqa: E402
from stableviton_core.person.agnostic import MaskOptions, PersonInputs, make_agnostic_mask  # noqa: E402
from stableviton_core.person.bodies import find_bodies  # noqa: E402
from stableviton_core.person.crop import CropRegion, crop, find_crop_region  # noqa: E402
from stableviton_core.person.crop_box import find_garment_box, find_person_box, select_body  # noqa: E402
from stableviton_core.person.stitch import enlarge_mask, stitch  # noqa: E402

HEIGHT, WIDTH = 512, 384
FULL_BODY = ("neck", "right_hip", "left_hip", "right_ankle", "left_ankle")
SMALLEST = 0.4  # of the photo's height, of a person that counts
LEGS = 1.2  # length of the legs of one who stands, at least, of the torso's


def shows_full_body(photo: np.ndarray) -> bool:
    for body in find_bodies(photo)[:1]:
        pose = body.to_pose().within(*photo.shape[:2])
        if pose.has(*FULL_BODY) and pose.size() > SMALLEST * len(photo):
            neck, hip, ankle = (
                np.mean([pose[name][1] for name in names])
                for names in (FULL_BODY[:1], FULL_BODY[1:3], FULL_BODY[3:])
            )
            return bool(ankle - hip > LEGS * (hip - neck) > 0)
    return False


def compute_psnr(a: torch.Tensor, b: torch.Tensor, inside: torch.Tensor) -> float:
    error = (a - b)[inside].square().mean().item()
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def measure_round_trip(photo: np.ndarray, region: CropRegion) -> tuple[float, float, float]:
    """PSNR inside the mask: ours, Pillow's, and ours at a working image of the region's size."""
    image, _ = crop(region, HEIGHT, WIDTH)
    mask, _ = make_agnostic_mask(to_arrays(image)[0], PersonInputs(), MaskOptions())
    mask = torch.from_numpy(mask[None].astype(np.float32))
    rows, columns = region.slices_in_photo()
    size = (region.height, region.width)
    inside = (enlarge_mask(mask, size) > 0)[(slice(None), *region.slices_in_region())]
    original = region.photo[:, rows, columns]
    ours = stitch(region, image, mask)[:, rows, columns]
    seen = Image.fromarray(photo[rows, columns])
    scale = HEIGHT / region.height
    small = seen.resize([max(1, round(side * scale)) for side in seen.size], Image.LANCZOS)
    pillow = to_images([np.asarray(small.resize(seen.size, Image.LANCZOS))])
    same, _ = crop(region, *size)
    at_scale_1 = stitch(region, same, enlarge_mask(mask, size))[:, rows, columns]
    values = (ours, pillow, at_scale_1)
    return tuple(compute_psnr(value, original, inside) for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path)
    chosen = parser.parse_args().photos
    print("| photo | size | person | garment | enlargement | PSNR | Pillow | at scale 1 |")
    print("|---" * 8 + "|")
    enlargements = []
    for path in chosen or list_photos():
        photo = read_image(path)
        if not chosen and not shows_full_body(photo):
            continue
        photos, body = to_images([photo]), select_body(photo)
        person, garment = (
            find_crop_region(photos, HEIGHT, WIDTH, box)
            for box in (find_person_box(body), find_garment_box(photo, body, "upper"))
        )
        enlargements.append(person.height / garment.height)
        try:
            psnr = [f"{value:.1f}" for value in measure_round_trip(photo, garment)]
        except StableVITONError as error:
            psnr = [str(error)[:40], "", ""]
        size = f"{photo.shape[1]} x {photo.shape[0]}"
        regions = [f"{region.width} x {region.height}" for region in (person, garment)]
        cells = [path.name, size, *regions, f"{enlargements[-1]:.2f}", *psnr]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(
        f"median enlargement of {len(enlargements)} photos: {statistics.median(enlargements):.2f}"
    )


if __name__ == "__main__":
    main()
