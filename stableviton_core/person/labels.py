"""Label maps of clothes and body parts under one set of names, and label images, whose colours
stand for labels."""

from dataclasses import dataclass

import numpy as np

from ..errors import StableVITONError

# VITON-HD image-parse-v3 (CIHP-20), the ids that label maps have inside this pack.
CIHP = (
    "background", "hat", "hair", "glove", "sunglasses", "upper", "dress", "coat", "socks", "pants",
    "torso_skin", "scarf", "skirt", "face", "left_arm", "right_arm", "left_leg", "right_leg",
    "left_shoe", "right_shoe",
)  # fmt: skip

# LIP-20 has the same ids but for one: its tenth label is a jumpsuit.
LIP = tuple("dress" if name == "torso_skin" else name for name in CIHP)

# ATR-18, with a belt as part of the trousers and a bag as background.
ATR = (
    "background", "hat", "hair", "sunglasses", "upper", "skirt", "pants", "dress", "pants",
    "left_shoe", "right_shoe", "face", "left_leg", "right_leg", "left_arm", "right_arm",
    "background", "scarf",
)  # fmt: skip

# The colours of VITON-HD's image-parse-v3 and of LIP, by id.
CIHP_COLOURS = (
    (0, 0, 0), (128, 0, 0), (255, 0, 0), (0, 85, 0), (170, 0, 51), (255, 85, 0), (0, 0, 85),
    (0, 119, 221), (85, 85, 0), (0, 85, 85), (85, 51, 0), (52, 86, 128), (0, 128, 0), (0, 0, 255),
    (51, 170, 221), (0, 255, 255), (85, 255, 170), (170, 255, 85), (255, 255, 0), (255, 170, 0),
)  # fmt: skip
SCHEMES = {"viton-hd": CIHP, "lip": LIP, "atr": ATR}

COLOUR_TOLERANCE = 10.0  # mean difference of a channel, of 255, up to which a colour is known
UNKNOWN_SHARE = 0.05  # of unknown colours that resampling or compression may leave


@dataclass(frozen=True, eq=False)
class Parse:
    """Label maps of a batch. labels: B x H x W uint8 in CIHP ids. source: what made them.
    approximate: whether that was a skeleton, which knows neither hair nor sleeves."""

    labels: np.ndarray
    source: str
    approximate: bool


def parse_label_names(text: str) -> list[str]:
    """Label names from a comma-separated list. StableVITONError for other names and for none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CIHP]
    if unknown or not names:
        raise StableVITONError(
            f"labels are names with commas between them, out of {', '.join(CIHP)}; got "
            f"{', '.join(map(repr, unknown)) or 'none'}"
        )
    return names


def get_label_ids(*names: str) -> list[int]:
    return [CIHP.index(name) for name in names]


def select_labels(parse: np.ndarray, *names: str) -> np.ndarray:
    """Where a label map H x W has one of the names, H x W bool."""
    return np.isin(parse, get_label_ids(*names))


def make_label_palette(scheme: str) -> np.ndarray:
    """Colours by id, N x 3 uint8 RGB: VITON-HD's, also for LIP; Pascal VOC's for ATR, as SCHP and
    its users draw it."""
    if scheme == "atr":
        return np.array([_make_voc_colour(index) for index in range(len(ATR))], np.uint8)
    return np.array(CIHP_COLOURS, np.uint8)


def _make_voc_colour(index: int) -> tuple[int, int, int]:
    """Pascal VOC's colour map: three bits of the index per level of R, G and B, highest first."""
    colour = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            colour[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colour[0], colour[1], colour[2]


def match_palette(image: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, float]:
    """The index of the nearest palette colour (N x 3) for every pixel of an image H x W x 3 uint8,
    H x W uint8; and the share of unknown colours among the pixels of other indices than 0 (1 where
    all pixels have index 0, for such an image has no labels)."""
    packed = image.astype(np.int32) @ (65536, 256, 1)  # one number a colour
    numbers, inverse = np.unique(packed, return_inverse=True)
    colours = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1).astype(np.int16)
    smallest = np.full(len(colours), 3 * 256, np.int16)
    nearest = np.zeros(len(colours), np.uint8)
    for index, entry in enumerate(palette.astype(np.int16)):
        distance = np.abs(colours - entry).sum(axis=1, dtype=np.int16)
        nearer = distance < smallest
        smallest[nearer], nearest[nearer] = distance[nearer], index
    inverse = inverse.reshape(image.shape[:2])
    indices, unknown = nearest[inverse], (smallest > 3 * COLOUR_TOLERANCE)[inverse]
    labelled = indices > 0
    return indices, float(unknown[labelled].mean()) if labelled.any() else 1.0


def decode_labels(image: np.ndarray, scheme: str) -> np.ndarray:
    """A label image H x W x 3 uint8 RGB in a scheme's colours, or with its ids as grey levels ->
    label map H x W uint8 in CIHP ids. StableVITONError where it is neither."""
    names = SCHEMES[scheme]
    table = np.array(get_label_ids(*names), np.uint8)
    grey = (image == image[..., :1]).all()
    if grey and 0 < image.max() < len(names):
        return table[image[..., 0]]
    labels, unknown = match_palette(image, make_label_palette(scheme))
    if unknown > UNKNOWN_SHARE:
        raise StableVITONError(
            f"this is no label map in {scheme}'s colours: {unknown:.0%} of what is not background "
            f"has others. Expected one of {', '.join(SCHEMES)}, without blending."
        )
    return table[labels]


def colour_labels(parse: np.ndarray) -> np.ndarray:
    """Label map in CIHP ids -> label image H x W x 3 uint8 RGB in VITON-HD's colours."""
    return make_label_palette("viton-hd")[parse]
