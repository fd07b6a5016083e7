"""Agnostic masks: the region of a person image that the try-on generates.

A rule returns two masks H x W bool: the region to generate, and `protected`, what of the person no
growing of the mask may cover. To add a rule, write its function and give it a row in RULES.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..errors import StableVITONError
from .analysis import analyze_parts, find_person, parse_person
from .densepose import HANDS, HEAD_PARTS, LEG_PARTS, LOWER_ARM_PARTS, TORSO_PARTS, UPPER_ARM_PARTS
from .garment_shape import GarmentShape
from .labels import select_labels
from .pose import ARMS, Pose
from .skeleton import approximate_parse, locate_hips
from .strokes import Strokes, dilate, fill_holes

AUTO = "auto"
SKELETON = "skeleton (approximate)"
DENSEPOSE_IMAGE = "DensePose image"

HEAD = ("sunglasses", "face")
LOWER = ("pants", "skirt", "left_leg", "right_leg", "left_shoe", "right_shoe")
ARM_LABELS = ("left_arm", "right_arm")  # in the order of ARMS

# Labels that a category replaces, and that it keeps besides the head ("parse+pose").
GARMENTS = {
    "upper": ("upper", "coat", "dress", "scarf"),
    "lower": ("pants", "skirt", "dress"),
    "dress": ("upper", "coat", "dress", "scarf", "pants", "skirt"),
}
KEPT = {
    "upper": ("pants", "skirt", "left_leg", "right_leg"),
    "lower": ("upper", "coat", "scarf", "left_arm", "right_arm", "torso_skin"),
    "dress": (),
}
MASK_CATEGORIES = {"upper": "upper", "lower": "lower", "dresses": "dress"}  # by the command line's
ALWAYS_KEPT = ("hat", *HEAD, "left_shoe", "right_shoe")
WORKING_HEIGHT = 512  # pixels of the image for which the next three are given
ARM_WIDTH, GARMENT_MARGIN, APPROXIMATE_MARGIN = 60, 8, 10
NEW_GARMENT = "as the new garment"
ARM_SHARES = {"long": 1.0, "short": 0.5, "as worn": 0.0}  # of the arm, masked
SLEEVES = (*ARM_SHARES, NEW_GARMENT)
HIP_DEPTH = 1.35  # of the hips below the shoulders, in distances of the shoulders

Masks = tuple[np.ndarray, np.ndarray]  # mask and protected, H x W bool


@dataclass(frozen=True)
class MaskOptions:
    """rule: AUTO or a name in RULES. category: of GARMENTS. sleeves: of SLEEVES, how much of the
    arms is masked; "as worn" is the garment alone. keep_hands: what lies beyond the wrists stays.
    grow: pixels, negative to shrink. new_garment: for sleeves "as the new garment"."""

    rule: str = AUTO
    category: str = "upper"
    sleeves: str = "long"
    keep_hands: bool = True
    keep_hair: bool = True
    grow: int = 0
    new_garment: GarmentShape | None = None

    @property
    def arm_share(self) -> float:
        """The part of the arms that is masked, 0 to 1. StableVITONError where it is the new
        garment's, and that is unknown."""
        if self.sleeves != NEW_GARMENT:
            return ARM_SHARES[self.sleeves]
        if self.new_garment is None:
            raise StableVITONError(
                f"sleeves is {NEW_GARMENT!r}, and the garment's mask is missing. Connect that of "
                "Cut Out Garment, or choose long, short or as worn."
            )
        return self.new_garment.sleeve


@dataclass(frozen=True, eq=False)
class PersonInputs:
    """Inputs of a rule; the networks find what a rule needs and is None.

    parse: H x W uint8 in CIHP ids, made by `source`; approximate: by `label_clothes` or
    `approximate_parse`, which label hands as gloves. parts: DensePose indices, H x W uint8.
    others: H x W bool, where the labels belong to other persons.
    """

    pose: Pose | None = None
    parse: np.ndarray | None = None
    source: str = SKELETON
    approximate: bool = True
    parts: np.ndarray | None = None
    others: np.ndarray | None = None


def apply_viton_hd_rule(person: PersonInputs, options: MaskOptions) -> Masks:
    """The construction of VITON-HD's agnostic-v3.2 (HR-VITON, get_agnostic), for upper garments.

    Torso, neck and arms are drawn from the pose; hands, face and lower body are taken out by the
    parse. Hair is masked. Missing hips are assumed below the shoulders. StableVITONError for
    another category and without both shoulders.
    """
    pose, parse = person.pose, person.parse
    assert pose is not None and parse is not None
    if options.category != "upper":
        raise StableVITONError(
            "the rule viton-hd is defined for upper garments only, got the category "
            f"{options.category!r}. Choose the rule parse+pose."
        )
    right, left, hips, unit = _measure_torso(pose)
    strokes = Strokes(*parse.shape)
    for hip in hips:
        strokes.draw_ellipse(hip, 3 * unit, 6 * unit)
    strokes.draw_line(right, hips[0], 6 * unit)
    strokes.draw_line(left, hips[1], 6 * unit)
    strokes.draw_line(hips[0], hips[1], 12 * unit)
    strokes.draw_polygon([right, left, hips[1], hips[0]])
    x, y = pose["neck"] if pose.has("neck") else (right + left) / 2
    strokes.draw_rectangle(x - 5 * unit, y - 9 * unit, x + 5 * unit, y)
    strokes.draw_line(right, left, 12 * unit)
    for shoulder in (right, left):
        strokes.draw_ellipse(shoulder, 5 * unit, 6 * unit)
    for arm in ARMS:
        for start, end in pairwise(arm):
            if pose.has(start, end):
                strokes.draw_line(pose[start], pose[end], 10 * unit)
                strokes.draw_ellipse(pose[end], 5 * unit, 5 * unit)
    mask = strokes.mask > 0
    for arm, label in zip(ARMS, ARM_LABELS, strict=True):
        mask &= ~(select_labels(parse, label) & ~_draw_sleeve(parse.shape, pose, arm, unit))
    gloves = select_labels(parse, "glove")
    hands = gloves if person.approximate else find_hands(parse, pose)
    mask &= ~(gloves | select_labels(parse, *HEAD, *LOWER))
    return mask, select_labels(parse, *HEAD) | hands


def _measure_torso(pose: Pose) -> tuple[np.ndarray, np.ndarray, Sequence[np.ndarray], int]:
    """Right and left shoulder, the hips (right, left) spread to the shoulders' distance, and the
    unit of the stroke widths in pixels."""
    if not pose.has("right_shoulder", "left_shoulder"):
        raise StableVITONError(
            "this rule draws from shoulder to shoulder, and the pose lacks one. Take a photo that "
            "shows both, or the rule 'densepose'."
        )
    right, left = pose["right_shoulder"], pose["left_shoulder"]
    width = float(np.linalg.norm(left - right))
    hips = locate_hips(pose, width)
    middle, span = (hips[0] + hips[1]) / 2, float(np.linalg.norm(hips[1] - hips[0]))
    if span > 0:
        hips = [middle + (hip - middle) / span * width for hip in hips]
    return right, left, hips, int(width / 16) + 1


def _draw_sleeve(shape: tuple[int, ...], pose: Pose, arm: Sequence[str], unit: float) -> np.ndarray:
    """The part of an arm that is generated, H x W bool: all but the hand."""
    strokes = Strokes(*shape[:2])
    last = pose[arm[0]]
    strokes.draw_ellipse(last, 5 * unit, 6 * unit)
    for start, end in pairwise(arm):
        if not pose.has(start, end):
            continue
        last = pose[end]
        strokes.draw_line(pose[start], last, 10 * unit)
        if end != arm[-1]:
            strokes.draw_ellipse(last, 5 * unit, 5 * unit)
    strokes.draw_ellipse(last, 4 * unit, 4 * unit)
    return strokes.mask > 0


def apply_parse_pose_rule(person: PersonInputs, options: MaskOptions) -> Masks:
    """The masks of OOTDiffusion and IDM-VTON: the category's garments with a margin, the bare neck
    and strokes along the arms, without the head and the other garments.

    They move the wrist a fifth outwards; here the hand is what lies beyond the wrist. Where it
    cannot be located (no wrist or elbow), only the strokes of that arm are masked.
    """
    pose, parse, category = person.pose, person.parse, options.category
    assert pose is not None and parse is not None
    person_parse = parse if person.others is None else np.where(person.others, 0, parse)
    unit = parse.shape[0] / WORKING_HEIGHT
    strokes = _draw_arms(parse.shape, pose, options.arm_share, ARM_WIDTH * unit)
    margin = (APPROXIMATE_MARGIN if person.approximate else GARMENT_MARGIN) * unit
    mask = dilate(select_labels(person_parse, *GARMENTS[category]), margin)
    if category == "lower":
        mask |= select_labels(person_parse, "left_leg", "right_leg")
    else:
        mask |= select_labels(person_parse, "torso_skin") | strokes
        if options.arm_share == 1:
            mask |= select_labels(person_parse, *ARM_LABELS, "glove")
        if options.new_garment is not None and options.sleeves == NEW_GARMENT:
            hem = _draw_torso(parse.shape, pose, options.new_garment.length)
            mask |= dilate(hem, margin)
    protected = select_labels(parse, *HEAD, *(["hair"] if options.keep_hair else []))
    if options.keep_hands and person.approximate:
        protected |= select_labels(parse, "glove")
    elif options.keep_hands:
        protected |= find_hands(parse, pose)
        for (_, elbow, wrist), label in zip(ARMS, ARM_LABELS, strict=True):
            if not pose.has(elbow, wrist):
                protected |= select_labels(parse, label) & ~strokes
    other_garments = select_labels(parse, *KEPT[category])
    if person.approximate:  # hems are uncertain by the margin, and tops may reach to the hips
        other_garments = dilate(other_garments, -margin)
        if category == "upper" and options.sleeves != "as worn":
            torso = _draw_torso(parse.shape, pose) & (parse > 0)
            mask, other_garments = mask | torso, other_garments & ~torso
    kept = protected | select_labels(parse, *ALWAYS_KEPT) | other_garments
    if person.others is not None:
        kept &= ~person.others
    return fill_holes(mask) & ~kept, protected


def find_hands(parse: np.ndarray, pose: Pose) -> np.ndarray:
    """Gloves, and what of the arm labels lies beyond the wrists, H x W bool."""
    hands = select_labels(parse, "glove")
    for (_, elbow, wrist), label in zip(ARMS, ARM_LABELS, strict=True):
        if not pose.has(elbow, wrist):
            continue
        forearm = pose[wrist] - pose[elbow]
        reach = float(np.linalg.norm(forearm))
        if reach == 0:
            continue
        if pose.has("right_shoulder", "left_shoulder"):  # for a forearm that points at the viewer
            shoulders = pose["left_shoulder"] - pose["right_shoulder"]
            reach = max(reach, float(np.linalg.norm(shoulders)) / 2)
        rows, columns = np.nonzero(select_labels(parse, label))
        x, y = columns - pose[wrist][0], rows - pose[wrist][1]
        beyond = (x * forearm[0] + y * forearm[1] >= 0) & (np.hypot(x, y) <= reach)
        hands[rows[beyond], columns[beyond]] = True
    return hands


def _draw_arms(shape: tuple[int, ...], pose: Pose, share: float, width: float) -> np.ndarray:
    """Strokes along a share of both arms from the shoulders, H x W bool. Each segment is a half."""
    strokes = Strokes(*shape[:2])
    for arm in ARMS:
        for index, (start, end) in enumerate(pairwise(arm)):
            part = min(1.0, 2 * share - index)
            if part > 0 and pose.has(start, end):
                tip = pose[start] + part * (pose[end] - pose[start])
                strokes.draw_line(pose[start], tip, width)
                strokes.draw_ellipse(pose[start], width / 2, width / 2)
    return strokes.mask > 0


def _draw_torso(shape: tuple[int, ...], pose: Pose, length: float | None = None) -> np.ndarray:
    """From the shoulders to the hips, or to a length below the shoulders in distances of the
    shoulders, H x W bool; empty without both shoulders."""
    strokes = Strokes(*shape[:2])
    if pose.has("right_shoulder", "left_shoulder"):
        right, left = pose["right_shoulder"], pose["left_shoulder"]
        hips = locate_hips(pose, float(np.linalg.norm(left - right)))
        share = 1.0 if length is None else length / HIP_DEPTH
        ends = [top + share * (hip - top) for top, hip in zip((right, left), hips, strict=True)]
        strokes.draw_polygon([right, left, ends[1], ends[0]])
    return strokes.mask > 0


def apply_densepose_rule(person: PersonInputs, options: MaskOptions) -> Masks:
    """Torso and arms, or the legs, by DensePose alone, with a margin for loose cloth, which it does
    not see."""
    parts = person.parts
    assert parts is not None
    segments = (UPPER_ARM_PARTS, LOWER_ARM_PARTS)[: math.ceil(2 * options.arm_share)]
    arms = [part for segment in segments for side in segment.values() for part in side]
    if options.arm_share == 1 and not options.keep_hands:
        arms += HANDS.values()
    replaced = {
        "upper": [*TORSO_PARTS, *arms],
        "lower": LEG_PARTS,
        "dress": [*TORSO_PARTS, *arms, *LEG_PARTS],
    }[options.category]
    margin = 2 * GARMENT_MARGIN * parts.shape[0] / WORKING_HEIGHT
    region = np.isin(parts, replaced)
    protected = np.isin(parts, [*HEAD_PARTS, *(HANDS.values() if options.keep_hands else ())])
    return dilate(region, margin) & (region | (parts == 0)), protected


@dataclass(frozen=True)
class Rule:
    """labels: the label map that `apply` reads, "parse" (together with the pose) or "parts".
    one_person: whether it reads `others`."""

    apply: Callable[[PersonInputs, MaskOptions], Masks]
    labels: str
    one_person: bool = False


RULES = {
    "viton-hd": Rule(apply_viton_hd_rule, "parse"),
    "parse+pose": Rule(apply_parse_pose_rule, "parse", one_person=True),
    "densepose": Rule(apply_densepose_rule, "parts"),
}


def make_agnostic_mask(
    image: np.ndarray, person: PersonInputs, options: MaskOptions
) -> tuple[np.ndarray, str]:
    """The mask H x W bool of an image H x W x 3 uint8 RGB, and the rule and the source of its
    labels, such as "parse+pose, from DensePose image".

    AUTO is the rule "densepose" where only parts are given, else "parse+pose". The mask is empty
    where the person wears nothing of the category. StableVITONError for an unknown option and where
    the rule does not apply; NoPersonError where the image shows nobody.
    """
    _check_choice("rule", options.rule, (AUTO, *RULES))
    _check_choice("category", options.category, GARMENTS)
    _check_choice("sleeves", options.sleeves, SLEEVES)
    name = options.rule
    if name == AUTO:
        only_parts = person.parts is not None and person.parse is None and person.pose is None
        name = "densepose" if only_parts else "parse+pose"
    person = _complete_inputs(image, person, RULES[name], options.category)
    mask, protected = RULES[name].apply(person, options)
    if options.grow:
        mask = dilate(mask, options.grow) & ~protected
    return mask, f"{name}, from {person.source}"


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise StableVITONError(f"{name} is one of {', '.join(choices)}, got {value!r}")


def _complete_inputs(
    image: np.ndarray, person: PersonInputs, rule: Rule, category: str
) -> PersonInputs:
    """The inputs that a rule reads, and the source of its labels. Persons are detected at most
    once."""
    if person.parts is not None and (rule.labels == "parts" or person.parse is None):
        parse = approximate_parse(person.parts)
        person = replace(person, parse=parse, source=DENSEPOSE_IMAGE, approximate=True)
    if rule.labels == "parts":
        if person.parts is None:
            parts = analyze_parts(image, person.pose)
            person = replace(person, parts=parts, source=SKELETON, approximate=True)
        return person
    if person.parse is None:
        return PersonInputs(*parse_person(image, person.pose, category))
    if person.pose is None or (
        rule.one_person and person.others is None and not person.approximate
    ):
        pose, _, others = find_person(image, person.pose)
        person = replace(person, pose=pose, others=None if person.approximate else others)
    return person


def check_mask(mask: np.ndarray, category: str) -> None:
    """StableVITONError where a finished mask is empty or covers the whole image."""
    if not mask.any():
        raise StableVITONError(
            f"nothing of the category {category!r} was found on this person, so the mask is empty. "
            "Choose another category or rule, connect a better parse, or draw what to add."
        )
    if mask.all():
        raise StableVITONError(
            "the mask covers the whole image, so nothing of the person would be left. Add or "
            "grow less."
        )
