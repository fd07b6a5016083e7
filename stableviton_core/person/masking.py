"""Which rule makes an agnostic mask, from what is known about the person."""

from dataclasses import dataclass

import numpy as np

from ..errors import StableVITONError
from .agnostic import HEAD, densepose_mask, grown, hands, parse_pose_mask, viton_hd_mask
from .analysis import analysed, chosen_body, outlines
from .densepose import HANDS, HEAD_PARTS
from .labels import region
from .pose import Pose
from .skeleton import approximate_parse

RULES = ("auto", "viton-hd", "parse+pose", "densepose")
SKELETON = "skeleton (approximate)"
DENSEPOSE_IMAGE = "DensePose image"


@dataclass(frozen=True)
class MaskOptions:
    """rule: of RULES. category, sleeves, keep_hands, keep_hair: as in `agnostic.parse_pose_mask`.
    grow: pixels, negative to shrink."""

    rule: str = "auto"
    category: str = "upper"
    sleeves: str = "long"
    keep_hands: bool = True
    keep_hair: bool = True
    grow: int = 0


@dataclass(frozen=True)
class Known:
    """What is known about a person. parse: H x W uint8 in CIHP ids; source: what made it.
    approximate: whether it is one of `skeleton.approximate_parse`. parts: DensePose indices
    H x W uint8."""

    pose: Pose | None = None
    parse: np.ndarray | None = None
    source: str = SKELETON
    approximate: bool = True
    parts: np.ndarray | None = None


def agnostic_mask(image: np.ndarray, known: Known, options: MaskOptions) -> tuple[np.ndarray, str]:
    """The mask H x W bool of a picture H x W x 3 uint8 RGB, and the rule that made it, from what.

    What a rule needs and is not known is found by the shipped networks. "auto" is the rule
    "densepose" where parts are all that is known, else "parse+pose". The mask is empty where the
    person wears nothing of the category. StableVITONError where the rule has no such category;
    NoPersonError and StableVITONError from finding the person.
    """
    rule = options.rule
    if rule == "auto":
        only_parts = known.parts is not None and known.parse is None and known.pose is None
        rule = "densepose" if only_parts else "parse+pose"
    if rule == "densepose":
        mask, kept, source = _by_parts(image, known, options)
    else:
        known = _with_parse(image, known)
        source = known.source
        by_rule = _by_viton_hd if rule == "viton-hd" else _by_parse
        mask, kept = by_rule(image, known, options)
    if options.grow:
        mask = _resized(mask, options.grow) & ~kept
    return mask, f"{rule}, from {source}"


def check_mask(mask: np.ndarray, category: str) -> None:
    """StableVITONError where a finished mask is empty, or leaves nothing of the picture."""
    if not mask.any():
        raise StableVITONError(
            f"nothing of the category {category!r} was found on this person, so the mask is empty. "
            "Choose another category or rule, connect a better parse, or draw what to add."
        )
    if mask.all():
        raise StableVITONError(
            "the mask covers the whole picture, so nothing of the person would be left. Add or "
            "grow less."
        )


def _by_parts(
    image: np.ndarray, known: Known, options: MaskOptions
) -> tuple[np.ndarray, np.ndarray, str]:
    """Mask, what growing must spare, and where the parts come from."""
    parts, source = known.parts, DENSEPOSE_IMAGE
    if parts is None:
        parts, source = analysed(image, known.pose).parts, SKELETON
    mask = densepose_mask(parts, options.category, options.keep_hands, options.sleeves)
    spared = [*HEAD_PARTS, *(HANDS.values() if options.keep_hands else ())]
    return mask, np.isin(parts, spared), source


def _with_parse(image: np.ndarray, known: Known) -> Known:
    """With a pose and a label map."""
    if known.parse is None and known.parts is None:
        found = analysed(image, known.pose)
        return Known(found.pose, found.parse)
    pose = known.pose or chosen_body(image).pose()
    if known.parse is None:
        assert known.parts is not None
        return Known(pose, approximate_parse(known.parts), DENSEPOSE_IMAGE)
    return Known(pose, known.parse, known.source, known.approximate)


def _by_parse(
    image: np.ndarray, known: Known, options: MaskOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Mask, and what growing must spare."""
    pose, parse = known.pose, known.parse
    assert pose is not None and parse is not None
    person = None if known.approximate else ~outlines(image, pose)[1]
    mask = parse_pose_mask(
        parse,
        pose,
        options.category,
        options.keep_hands,
        options.keep_hair,
        options.sleeves,
        person,
        gloves_are_hands=known.approximate,
    )
    kept = region(parse, *HEAD, *(("hair",) if options.keep_hair else ()))
    if options.keep_hands:
        kept |= region(parse, "glove") if known.approximate else hands(parse, pose)
    return mask, kept


def _by_viton_hd(
    image: np.ndarray, known: Known, options: MaskOptions
) -> tuple[np.ndarray, np.ndarray]:
    """As `_by_parse`. The rule always keeps the hands, and masks hair."""
    pose, parse = known.pose, known.parse
    assert pose is not None and parse is not None
    if options.category != "upper":
        raise StableVITONError(
            "the rule viton-hd is defined for upper garments only, got the category "
            f"{options.category!r}. Choose the rule parse+pose."
        )
    gloves = region(parse, "glove")
    mask = viton_hd_mask(parse, pose) & ~gloves
    own_hands = gloves if known.approximate else hands(parse, pose)
    return mask, region(parse, *HEAD) | own_hands


def _resized(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grown by so many pixels in all directions, or shrunk."""
    return grown(mask, pixels) if pixels > 0 else ~grown(~mask, -pixels)
