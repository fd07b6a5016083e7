"""What a crop is made around: a person, what a garment of a category covers of it, or a mask.

Boxes are left, top, right and bottom in pixels of the photo.
"""

import numpy as np

from ..errors import StableVITONError
from ..image_tensors import to_arrays, to_images
from .analysis import check_found, locate_pose
from .blazepose import Body
from .bodies import OUTLINE_THRESHOLD, find_bodies
from .clothes import find_outline
from .crop import Box, CropRegion, crop, find_crop_region
from .pose import Pose

# Of the way from hips to knees, down to which VITON-HD's images of upper garments reach; of the way
# from hips to shoulders, up to which an image of a lower garment reaches.
THIGH, WAIST = 0.35, 0.4
THIGH_LENGTH = 0.9  # of the torso's, for a pose without knees


def select_body(image: np.ndarray, index: int = 0, mask: np.ndarray | None = None) -> Body:
    """A person of an image H x W x 3 uint8 RGB. index: 0 is the largest. mask: H x W bool, the
    person under most of it instead. NoPersonError without any, StableVITONError where there are
    fewer, or none under the mask."""
    bodies = find_bodies(image)
    check_found(bodies)
    if mask is None:
        if index >= len(bodies):
            raise StableVITONError(
                f"person {index} was asked for and this photo shows {len(bodies)}. They are "
                f"counted from 0, the largest: choose 0 to {len(bodies) - 1}, or draw a mask on "
                "the person."
            )
        return bodies[index]
    covered = [float(body.mask[mask].sum()) for body in bodies]
    if max(covered) == 0:
        raise StableVITONError(
            "nobody is under the mask. Draw it on the person who is to wear the garment."
        )
    return bodies[int(np.argmax(covered))]


def find_person_box(body: Body) -> Box:
    """Around a person's outline and joints."""
    return _find_box(body, body.mask > OUTLINE_THRESHOLD, -np.inf, np.inf)


def find_garment_box(image: np.ndarray, body: Body, category: str) -> Box:
    """Around the part of a person that images of a category of MASK categories show: "upper", head
    to thigh; "lower", waist to feet; "dress", all; the last two with skirts. All of it too where
    the joints are not in the photo. image: H x W x 3 uint8 RGB."""
    top, bottom = _find_rows(body.to_pose(), category)
    outline = body.mask > OUTLINE_THRESHOLD
    if category != "upper":
        outline = find_outline(image, body, np.zeros_like(outline))
    return _find_box(body, outline, top, bottom)


def crop_garment(
    photo: np.ndarray, category: str, height: int, width: int
) -> tuple[CropRegion, np.ndarray, Pose]:
    """The region around `find_garment_box` of the largest person of a photo H x W x 3 uint8, the
    working image height x width x 3 uint8, and the person's pose in it."""
    body = select_body(photo)
    box = find_garment_box(photo, body, category)
    region = find_crop_region(to_images([photo]), height, width, box)
    (image,) = to_arrays(crop(region, height, width)[0])
    return region, image, locate_pose_in_crop(body, region, image)


def locate_pose_in_crop(body: Body, region: CropRegion, image: np.ndarray) -> Pose:
    """The pose of a photo's body in the working image, height x width x 3 uint8, of a region: found
    anew there, or else that of the photo."""
    scale = len(image) / region.height
    moved = (body.to_pose().points - (region.left, region.top)) * scale
    return locate_pose(image, Pose(moved))


def _find_rows(pose: Pose, category: str) -> tuple[float, float]:
    """The first and the last row of what a category shows."""
    hips = [pose[name][1] for name in ("right_hip", "left_hip") if pose.has(name)]
    if not hips or not pose.has("neck") or category == "dress":
        return -np.inf, np.inf
    hip, shoulder = float(np.mean(hips)), float(pose["neck"][1])
    if category == "lower":
        return hip - WAIST * (hip - shoulder), np.inf
    knees = [pose[name][1] for name in ("right_knee", "left_knee") if pose.has(name)]
    thigh = float(np.mean(knees)) - hip if knees else THIGH_LENGTH * (hip - shoulder)
    return -np.inf, hip + THIGH * max(thigh, 0)


def _find_box(body: Body, outline: np.ndarray, top: float, bottom: float) -> Box:
    """Around an outline, H x W bool, and joints between two rows."""
    rows, columns = np.nonzero(outline)
    points = body.to_pose().points
    points = points[np.isfinite(points).all(axis=1)]
    x, y = np.concatenate([columns, points[:, 0]]), np.concatenate([rows, points[:, 1]])
    inside = (y >= top) & (y <= bottom)
    x, y = x[inside], y[inside]
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def find_mask_box(mask: np.ndarray) -> Box:
    """Around a mask, H x W bool. StableVITONError where it is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise StableVITONError(
            "the mask is empty, so there is nothing to crop around. Draw it, or crop around the "
            "person."
        )
    return float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0
