"""Which rule makes an agnostic mask, from what is known about the person."""

from dataclasses import dataclass

import cv2
import numpy as np

from .agnostic import HEAD, MaskError, densepose_mask, hands, parse_pose_mask, viton_hd_mask
from .analysis import analysed, chosen_body, outlines
from .densepose import HANDS
from .densepose import HEAD as HEAD_PART
from .labels import region
from .pose import Pose
from .skeleton import approximate_parse

RULES = ("auto", "viton-hd", "parse+pose", "densepose")


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
    """What is known about a person. parse: H x W uint8 in CIHP ids; approximate: whether it is one
    of `skeleton.approximate_parse`. parts: DensePose indices H x W uint8."""

    pose: Pose | None = None
    parse: np.ndarray | None = None
    approximate: bool = False
    parts: np.ndarray | None = None


def agnostic_mask(image: np.ndarray, known: Known, options: MaskOptions) -> tuple[np.ndarray, str]:
    """The mask H x W bool of a picture H x W x 3 uint8 RGB, and the rule that made it.

    What a rule needs and is not known is found by the shipped networks. "auto" is the rule
    "densepose" where parts are all that is known, else "parse+pose". MaskError where the mask is
    empty or the rule has no such category; NobodyError and PoseError from finding the person.
    """
    rule = options.rule
    if rule == "auto":
        only_parts = known.parts is not None and known.parse is None and known.pose is None
        rule = "densepose" if only_parts else "parse+pose"
    if rule == "densepose":
        mask, kept, source = _by_parts(image, known, options)
    else:
        mask, kept, source = _by_parse(image, known, options, rule)
    if options.grow:
        mask = _resized(mask, options.grow) & ~kept
    if not mask.any():
        raise MaskError(
            f"the rule {rule} found nothing of the category {options.category!r} on this person. "
            "Choose another category or rule, connect a better parse, or draw the mask."
        )
    return mask, f"{rule}{source}"


def _by_parts(
    image: np.ndarray, known: Known, options: MaskOptions
) -> tuple[np.ndarray, np.ndarray, str]:
    """Mask, what growing must spare, and where the parts come from."""
    parts, source = known.parts, ""
    if parts is None:
        parts, source = analysed(image, known.pose).parts, " (approximate parts)"
    mask = densepose_mask(parts, options.category, options.keep_hands, options.sleeves)
    spared = [HEAD_PART, *(HANDS.values() if options.keep_hands else ())]
    return mask, np.isin(parts, spared), source


def _by_parse(
    image: np.ndarray, known: Known, options: MaskOptions, rule: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """As `_by_parts`, with the source of the label map."""
    pose, parse, others, approximate = known.pose, known.parse, None, True
    if parse is None and known.parts is None:
        found = analysed(image, pose)
        pose, parse, source = found.pose, found.parse, " (approximate parse)"
    else:
        pose = pose or chosen_body(image).pose()
        if parse is None:
            parse, source = approximate_parse(known.parts), " (parse from DensePose)"
        elif known.approximate:
            source = " (approximate parse)"
        else:
            approximate, source = False, ""
            _, others = outlines(image, pose)
    kept = region(parse, *HEAD, *(("hair",) if options.keep_hair else ()))
    if options.keep_hands:
        kept |= region(parse, "glove") if approximate else hands(parse, pose)
    if rule == "parse+pose":
        mask = parse_pose_mask(
            parse, pose, options.category, options.keep_hands, options.keep_hair, options.sleeves,
            None if others is None else ~others, gloves_are_hands=approximate,
        )  # fmt: skip
        return mask, kept, source
    if options.category != "upper":
        raise MaskError(
            "the rule viton-hd is defined for upper garments only, got the category "
            f"{options.category!r}. Choose the rule parse+pose."
        )
    mask = viton_hd_mask(parse, pose)
    return (mask & ~region(parse, "glove") if approximate else mask), kept, source


def _resized(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grown by so many pixels in all directions, or shrunk."""
    if pixels > 0:
        away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return away <= pixels if mask.any() else mask
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return inside > -pixels
