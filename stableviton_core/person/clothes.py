"""Labels of a person's clothes without a parsing network: by colours and edges inside the outline,
from seeds where the body says what must be garment.

Works at WORKING_HEIGHT, whatever the size of the image. Masks are H x W bool.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .blazepose import Body
from .body_regions import BodyRegions
from .graph_cut import connect, cut_foreground
from .labels import CIHP, select_labels
from .networks import segment_people, segment_salient_object
from .skeleton import find_left_side
from .strokes import dilate, open_mask

WORKING_HEIGHT = 256
PERSON = 0.5  # probability from which a pixel is a person's
REACH, SKIRT_REACH = 0.8, 3.0  # of clothes beyond the body's mask, above and below the hips, units
SMOOTHING = 1.5  # of labels, pixels of the working height
LOOSE = 0.5  # of cloth around torso and arms, units
SKIN_DISTANCE, HAIR_DISTANCE = 6.0, 8.0  # squared, in standard deviations
BARE = 0.25  # share of the chest in the colour of skin, from which skin says nothing
SAMPLE, SAMPLE_SPREAD = 20, 30.0  # pixels of a colour, at least; distance from their median
HAND, FAR_HAND = 0.32, 0.42  # radii around a hand's centre, units
HAND_SHARE = 0.5  # of the expected hand in the colour of skin, from which it is visible


@dataclass(frozen=True, eq=False)
class _Skin:
    """mask: pixels in the colour of the face. distinct: whether the clothes have another one."""

    mask: np.ndarray
    distinct: bool


def label_clothes(
    image: np.ndarray, body: Body, others: np.ndarray, category: str = "upper"
) -> np.ndarray:
    """Labels in CIHP ids, H x W uint8, of a person in an image H x W x 3 uint8 RGB.

    upper: all that is worn above the hips, and what goes on below in its colours; pants: the rest
    below, with skirts; glove: hands; hair: with hats. Coats, dresses and scarves are not told
    apart. others: other persons' outline. category: of the agnostic mask; "lower" makes pants of
    what may be both, and "dress" makes all garments a dress.
    """
    labels = _label(*_shrink(image, body, others), category)
    return _enlarge(labels, *image.shape[:2])


def find_outline(image: np.ndarray, body: Body, others: np.ndarray) -> np.ndarray:
    """A person with all clothes, H x W bool; the arguments are those of `label_clothes`."""
    small, body, others = _shrink(image, body, others)
    outline = _refine_outline(small, BodyRegions(body), body.mask > PERSON, others)
    return _enlarge(outline, *image.shape[:2]) > 0


def _shrink(
    image: np.ndarray, body: Body, others: np.ndarray
) -> tuple[np.ndarray, Body, np.ndarray]:
    """The same at the working height."""
    scale = WORKING_HEIGHT / len(image)
    size = (max(1, round(image.shape[1] * scale)), WORKING_HEIGHT)
    mask = cv2.resize(body.mask, size, interpolation=cv2.INTER_AREA)
    return (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA),
        Body(body.points * scale, body.visibility, mask, body.presence),
        cv2.resize(others.astype(np.float32), size) > PERSON,
    )


def _enlarge(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The label that is most around, so that edges are smooth and specks gone."""
    best = np.full((height, width), -1, np.float32)
    enlarged = np.zeros((height, width), np.uint8)
    for label in np.unique(labels):
        share = cv2.GaussianBlur((labels == label).astype(np.float32), (0, 0), SMOOTHING)
        share = cv2.resize(share, (width, height))
        larger = share > best
        best[larger], enlarged[larger] = share[larger], label
    return enlarged


def _label(image: np.ndarray, body: Body, others: np.ndarray, category: str) -> np.ndarray:
    regions = BodyRegions(body)
    outline = _refine_outline(image, regions, body.mask > PERSON, others)
    skin = _find_skin(image, regions, outline)
    hands = _find_hands(regions, outline, skin)
    upper = _segment_upper(image, regions, outline, skin, hands)
    lower = _segment_lower(image, regions, outline, hands)
    if category != "lower":
        lower &= ~upper
    upper &= ~lower
    hands |= _extend_hands(regions, outline & ~upper, skin, hands)
    face = regions.face | _find_jaw(regions, outline & ~upper, skin)
    hair = _find_hair(image, regions, outline & ~upper)
    bare = skin.mask & skin.distinct
    below_hips = ~regions.above_hips
    loose = dilate(regions.torso | regions.arms, LOOSE * regions.unit) & regions.below_shoulders
    pose = body.to_pose()
    left_arm = find_left_side(outline.shape, pose, ("shoulder", "elbow", "wrist"))
    left_leg = find_left_side(outline.shape, pose, ("hip", "knee", "ankle"))
    bare_arms = regions.arms & (bare | ~regions.torso)
    beside = regions.arms & ~regions.legs & ~regions.torso
    labels = np.zeros(outline.shape, np.uint8)
    first_wins = [
        ("face", face),
        ("hair", hair),
        ("glove", hands),
        ("upper", upper),
        ("pants", lower),
        ("left_arm", bare_arms & left_arm),
        ("right_arm", bare_arms & ~left_arm),
        ("torso_skin", bare & regions.above_hips),
        ("upper", loose & regions.above_hips),
        ("torso_skin", regions.neck),
        ("left_shoe", regions.feet & left_leg),
        ("right_shoe", regions.feet & ~left_leg),
        ("left_leg", bare & below_hips & left_leg),
        ("right_leg", bare & below_hips & ~left_leg),
        ("pants", regions.below_waist & ~beside),
    ]
    for name, mask in first_wins:
        labels[mask & outline & (labels == 0)] = CIHP.index(name)
    if category == "dress":
        labels[select_labels(labels, "upper", "pants")] = CIHP.index("dress")
    return labels


def _refine_outline(
    image: np.ndarray, regions: BodyRegions, body: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """The body's mask with the clothes around it that three networks and the colours find."""
    cloth = _segment_twice(segment_people, image) > PERSON
    salient = _segment_twice(segment_salient_object, image) > PERSON
    near = dilate(body, REACH * regions.unit)
    skirt = dilate(body, SKIRT_REACH * regions.unit) & ~regions.above_hips
    likely = connect(body | ((cloth | salient) & (near | skirt)), body)
    seeds = np.full(body.shape, cv2.GC_BGD, np.uint8)
    seeds[dilate(likely, 0.12 * regions.unit)] = cv2.GC_PR_BGD
    seeds[likely] = cv2.GC_PR_FGD
    seeds[dilate(body, -0.05 * regions.unit)] = cv2.GC_FGD
    seeds[others & ~body] = cv2.GC_BGD
    refined = cut_foreground(image, seeds)
    skirt &= cloth & ~others
    return connect(dilate(refined, 1) | body | skirt, body)


def _segment_twice(segment: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """The mean of a network's mask of the image and of that of its mirror image."""
    mirrored = segment(np.ascontiguousarray(image[:, ::-1]))
    return (segment(image) + mirrored[:, ::-1]) / 2


def _find_skin(image: np.ndarray, regions: BodyRegions, outline: np.ndarray) -> _Skin:
    mask = _find_colour(image, regions.cheeks & outline, SKIN_DISTANCE, (80, 6, 6))
    heart = regions.heart & outline
    distinct = mask.any() and heart.any() and mask[heart].mean() < BARE
    return _Skin(mask, bool(distinct))


def _find_colour(
    image: np.ndarray, sample: np.ndarray, distance: float, noise: tuple[float, ...]
) -> np.ndarray:
    """Pixels in the main colour of a sample, in CIELAB. noise: variance that is added."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    pixels = lab[sample]
    if len(pixels) >= SAMPLE:
        offsets = (pixels - np.median(pixels, axis=0)) * (0.4, 1, 1)
        pixels = pixels[np.linalg.norm(offsets, axis=1) < SAMPLE_SPREAD]
    if len(pixels) < SAMPLE:
        return np.zeros(sample.shape, bool)
    precision = np.linalg.inv(np.cov(pixels.T) + np.diag(noise))
    offset = lab - pixels.mean(axis=0)
    return np.einsum("hwi,ij,hwj->hw", offset, precision, offset) < distance


def _find_hands(regions: BodyRegions, outline: np.ndarray, skin: _Skin) -> np.ndarray:
    """Hands by their colour where skin has one of its own, else by the joints."""
    mask = np.zeros(outline.shape, bool)
    for hand in regions.hands:
        if not skin.distinct:
            mask |= hand.core
            continue
        near = regions.draw_disc(hand.centre, HAND) & hand.beyond
        far = regions.draw_disc(hand.centre + 0.2 * regions.unit * hand.along, FAR_HAND)
        reach = near | (far & hand.beyond & ~regions.torso)
        colour = connect(reach & skin.mask & outline, near | hand.core)
        if colour.sum() >= HAND_SHARE * hand.core.sum():
            mask |= colour | (hand.core & dilate(colour, 0.05 * regions.unit))
    return mask & outline


def _extend_hands(
    regions: BodyRegions, free: np.ndarray, skin: _Skin, hands: np.ndarray
) -> np.ndarray:
    """What goes on from the hands beyond the wrists and is no garment. free: the outline without
    garment."""
    mask = np.zeros(free.shape, bool)
    for hand in regions.hands:
        centre = hand.centre + 0.12 * regions.unit * hand.along
        reach = regions.draw_disc(centre, 0.28) & hand.beyond & free
        if skin.distinct:
            reach &= dilate(hands, 0.1 * regions.unit)
        mask |= connect(reach, hand.core & hands)
    return mask


def _find_jaw(regions: BodyRegions, free: np.ndarray, skin: _Skin) -> np.ndarray:
    """The lower face to the chin. free: the outline without garment."""
    chin = skin.mask & dilate(regions.jaw, 0.1 * regions.unit)
    return (regions.jaw | open_mask(chin, 2)) & free


def _find_hair(image: np.ndarray, regions: BodyRegions, free: np.ndarray) -> np.ndarray:
    """Hair and hat. free: the outline without garment."""
    colour = _find_colour(image, regions.crown & free, HAIR_DISTANCE, (40, 8, 8))
    strands = connect(colour & regions.hair & free, regions.head)
    return regions.head | (regions.nape & free) | strands


def _segment_upper(
    image: np.ndarray, regions: BodyRegions, outline: np.ndarray, skin: _Skin, hands: np.ndarray
) -> np.ndarray:
    """What is worn on the torso."""
    around = dilate(regions.torso | regions.arms, 0.15 * regions.unit) & regions.above_hips
    chest = regions.chest & ~dilate(hands | regions.face, 2) & ~regions.forearms
    doubtful = dilate(regions.face, 0.1 * regions.unit) | (skin.mask & skin.distinct)
    seeds = np.full(outline.shape, cv2.GC_BGD, np.uint8)
    seeds[outline] = cv2.GC_PR_BGD
    seeds[outline & around] = cv2.GC_PR_FGD
    seeds[outline & doubtful & ~regions.chest] = cv2.GC_PR_BGD
    seeds[outline & chest] = cv2.GC_FGD
    seeds[outline & (regions.head | (regions.leg_cores & ~regions.chest) | hands)] = cv2.GC_BGD
    return _segment(image, seeds, outline, regions.unit)


def _segment_lower(
    image: np.ndarray, regions: BodyRegions, outline: np.ndarray, hands: np.ndarray
) -> np.ndarray:
    """What is worn on the legs."""
    core = (regions.leg_cores | regions.pelvis) & ~hands & ~regions.forearms
    likely = regions.legs | dilate(regions.pelvis, 0.15 * regions.unit)
    other = regions.above_belt | regions.feet | regions.head
    seeds = np.full(outline.shape, cv2.GC_BGD, np.uint8)
    seeds[outline] = cv2.GC_PR_BGD
    seeds[outline & likely] = cv2.GC_PR_FGD
    seeds[outline & core] = cv2.GC_FGD
    seeds[outline & ((other & ~regions.leg_cores) | hands)] = cv2.GC_BGD
    return _segment(image, seeds, outline, regions.unit)


def _segment(image: np.ndarray, seeds: np.ndarray, outline: np.ndarray, unit: float) -> np.ndarray:
    """`cut_foreground` in the outline's surroundings alone, so that far background has no say.
    Without what is not connected to a sure seed."""
    surely = seeds == cv2.GC_FGD
    mask = np.zeros(outline.shape, bool)
    if not surely.any():
        return mask
    left, top, width, height = cv2.boundingRect(dilate(outline, 0.3 * unit).astype(np.uint8))
    window = slice(top, top + height), slice(left, left + width)
    mask[window] = cut_foreground(image[window], seeds[window])
    return connect(mask, surely)
