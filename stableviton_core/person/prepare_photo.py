"""The images of a data set that one photo gives: of a person, or of a garment."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..devices import choose_device
from ..errors import StableVITONError
from ..images import fill_agnostic_region, write_image
from ..model.weight_reader import Weights, read_weights
from .agnostic import (
    MASK_CATEGORIES,
    SKELETON,
    MaskOptions,
    PersonInputs,
    check_mask,
    make_agnostic_mask,
)
from .analysis import NoPersonError, analyze_person, find_person
from .crop_box import crop_garment
from .densepose import colour_parts
from .garment import place_on_white
from .garment_cutout import WORN, cut_out_garment
from .labels import colour_labels, select_labels
from .large_networks import (
    DensePose,
    OpenPose,
    SegFormer,
    load_densepose,
    load_openpose,
    load_segformer,
)
from .pose import Pose, choose_pose
from .prepare_config import PrepareConfig
from .skeleton import approximate_parts

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PersonNetworks:
    """The large networks that are to be used; None for a shipped, approximate way."""

    densepose: DensePose | None = None
    segformer: SegFormer | None = None
    openpose: OpenPose | None = None


@contextmanager
def load_person_networks(config: PrepareConfig) -> Iterator[PersonNetworks]:
    """The large networks of a configuration, on its device. StableVITONError names a file that is
    not the network it should be."""
    place = partial(_place_on_device, choose_device(config.device))
    with ExitStack() as stack:
        densepose = segformer = openpose = None
        if config.densepose:
            densepose = stack.enter_context(load_densepose(config.densepose, place))
        if config.segformer:
            segformer = stack.enter_context(load_segformer(config.segformer, place))
        if config.openpose:
            openpose = stack.enter_context(load_openpose(config.openpose, _read_tensors, place))
        yield PersonNetworks(densepose, segformer, openpose)


def _place_on_device(
    device: torch.device, network: nn.Module
) -> AbstractContextManager[torch.device]:
    network.to(device)
    return nullcontext(device)


def _read_tensors(path: Path) -> Weights:
    return read_weights(path)[0]


@dataclass(frozen=True, eq=False)
class _Person:
    """What is known of the dressed person of an image. parts: DensePose indices. inputs: pose,
    labels and the outline of others, for the agnostic mask."""

    parts: np.ndarray
    inputs: PersonInputs


def write_person(
    photo: np.ndarray, name: str, config: PrepareConfig, networks: PersonNetworks
) -> None:
    """The person's images of a pair, NAME.png, cropped to the working size around what garments
    of the category cover of the largest person. The image itself comes last: where it exists, the
    others do.

    StableVITONError where the photo cannot be used: nobody in it, nothing to mask, or for the
    split train, nothing worn of the category.
    """
    options = MaskOptions(category=MASK_CATEGORIES[config.category])
    _, image, pose = crop_garment(photo, options.category, config.height, config.width)
    person = _analyze(image, pose, options.category, networks)
    parse = person.inputs.parse
    assert parse is not None
    mask, _ = make_agnostic_mask(image, person.inputs, options)
    check_mask(mask, options.category)
    worn = find_worn_garment(parse, config.category, person.inputs.others)
    if config.split == "train" and not worn.any():
        raise StableVITONError(
            f"nothing of the category {config.category!r} was found on this person, who is to wear "
            "the garment. Take another photo."
        )
    file = f"{name}.png"
    write_image(config.folder / "agnostic-v3.2" / file, fill_agnostic_region(image, mask))
    write_image(config.folder / "agnostic-mask" / f"{name}_mask.png", _to_levels(mask))
    write_image(config.folder / "image-densepose" / file, colour_parts(person.parts))
    write_image(config.folder / "image-parse-v3" / file, colour_labels(parse))
    if worn.any():
        write_image(config.folder / "gt_cloth_warped_mask" / file, _to_levels(worn))
    write_image(config.folder / "image" / file, image)


def write_garment(photo: np.ndarray, name: str, config: PrepareConfig) -> None:
    """The garment's images of a pair, NAME.png, on white at the working size. The garment itself
    comes last. StableVITONError where nothing stands out from the background."""
    cut_out = cut_out_garment(photo)
    for warning in cut_out.warnings:
        _log.warning("%s: %s", name, warning)
    garment, mask = place_on_white(cut_out.photo, cut_out.mask, config.height, config.width)
    write_image(config.folder / "cloth-mask" / f"{name}.png", _to_levels(mask > 0.5))
    write_image(config.folder / "cloth" / f"{name}.png", garment)


def find_worn_garment(
    parse: np.ndarray, category: str, others: np.ndarray | None = None
) -> np.ndarray:
    """Where the garment of a category (of MASK_CATEGORIES) is on the person, H x W bool.

    parse: labels H x W in CIHP ids. others: H x W bool, where the labels are other persons'.
    """
    worn = select_labels(parse, *WORN[MASK_CATEGORIES[category]])
    return worn if others is None else worn & ~others


def _analyze(image: np.ndarray, pose: Pose, category: str, networks: PersonNetworks) -> _Person:
    """Pose, parts and labels of the person of a pose, by the large networks that are there, as in
    the nodes."""
    if networks.openpose:
        pose = _find_pose(image, networks.openpose)
    if networks.segformer:
        _, outline, others = find_person(image, pose)
        parts = None if networks.densepose else approximate_parts(pose, outline)
        inputs = PersonInputs(
            pose, networks.segformer(image, pose), "SegFormer", approximate=False, others=others
        )
    else:
        analysis = analyze_person(image, pose, category=category)
        parts = analysis.parts
        inputs = PersonInputs(pose, analysis.parse, SKELETON)
    if networks.densepose:
        x, y = pose.centre()
        parts = networks.densepose(image, (float(x), float(y)))
    assert parts is not None
    return _Person(parts, inputs)


def _find_pose(image: np.ndarray, find_poses: OpenPose) -> Pose:
    poses = find_poses(image)
    if not poses:
        raise NoPersonError("OpenPose found nobody in this image. Use another photo.")
    return choose_pose(poses, None)


def _to_levels(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 255, 0).astype(np.uint8)
