"""Where the parts of a body lie in an image, by its landmarks alone.

Masks are H x W bool, points x and y in pixels. Lengths of the body are in its unit: the shoulder
width, or what stands for it where a person is seen from the side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from .blazepose import Body
from .strokes import Strokes, dilate

VISIBLE = 0.3  # visibility from which a landmark is used
NOSE = 0
# Landmarks, the person's left one first.
EYES, EARS, MOUTH = (2, 5), (7, 8), (9, 10)
SHOULDERS, ELBOWS, WRISTS = (11, 12), (13, 14), (15, 16)
LITTLE_FINGERS, INDEX_FINGERS = (17, 18), (19, 20)
HIPS, KNEES, ANKLES, TOES = (23, 24), (25, 26), (27, 28), (31, 32)

# Half thicknesses, in units.
UPPER_ARM, FOREARM, BONE = 0.2, 0.17, 0.12
THIGH, SHIN, FOOT = 0.25, 0.2, 0.12
LEG_CORE, HIP_CORE, HAND_CORE = 0.08, 0.08, 0.08
TORSO_MARGIN = 0.1
FACE_UNITS = 2.2  # shoulder width of one who faces the viewer, in distances from eyes to mouth
TORSO_UNITS = 0.45  # the same, in lengths of the torso
HIPS_BELOW = 1.5  # the shoulders, in units, where hips are not visible
THIGH_LENGTH = 0.9  # of the torso's, without knees
WAIST = 0.25  # of the way from the hips to the shoulders

# In distances from eyes to mouth.
CHIN = 0.55  # below the mouth, where there still is face
FACE, JAW = 1.0, 1.35  # half heights of what is face surely, and at most
CROWN, NAPE = 2.6, 2.6  # radii of the head with hair and hat: around the eyes, around the mouth
NECK = 0.8  # half thickness


@dataclass(frozen=True, eq=False)
class Hand:
    """centre: between the wrist and the roots of the fingers; along: unit vector of the forearm;
    core: mask of what is the hand where it is visible; beyond: mask of all beyond the wrist."""

    centre: np.ndarray
    along: np.ndarray
    core: np.ndarray
    beyond: np.ndarray


class BodyRegions:
    """The regions of a body. unit: pixels. has_face: whether one is visible; without it the
    regions of the head are empty."""

    def __init__(self, body: Body):
        self.shape = body.mask.shape
        self.visible = body.visibility >= VISIBLE
        self.has_face = bool(self.visible[NOSE]) and self._contains(body.points[NOSE])
        self._points = body.points
        self._eyes, self._mouth = (body.points[list(pair)].mean(axis=0) for pair in (EYES, MOUTH))
        self._face_length = max(float(np.linalg.norm(self._mouth - self._eyes)), 1.0)
        self._down_face = (self._mouth - self._eyes) / self._face_length
        self._shoulders = [body.points[index] for index in SHOULDERS]
        self._neck = np.mean(self._shoulders, axis=0)
        unit = float(np.linalg.norm(self._shoulders[0] - self._shoulders[1]))
        if self.has_face:
            unit = max(unit, FACE_UNITS * self._face_length)
        if self.visible[list(HIPS)].all():
            self._hips = [body.points[index] for index in HIPS]
        else:
            self._hips = [shoulder + (0, HIPS_BELOW * unit) for shoulder in self._shoulders]
        self._pelvis = np.mean(self._hips, axis=0)
        torso = float(np.linalg.norm(self._neck - self._pelvis))
        self._up = (self._neck - self._pelvis) / max(torso, 1e-6)
        self.unit = max(unit, TORSO_UNITS * torso, 1.0)

    @cached_property
    def face(self) -> np.ndarray:
        """What is surely face."""
        ears = [self._points[index] for index in EARS]
        width = min(float(np.linalg.norm(ears[0] - ears[1])) / 2, 1.2 * self._face_length)
        return self._draw_face(max(0.85 * self._face_length, width), FACE)

    @cached_property
    def jaw(self) -> np.ndarray:
        """The face down to the chin, with what may be neck already."""
        return self._draw_face(0.75 * self._face_length, JAW)

    @cached_property
    def cheeks(self) -> np.ndarray:
        """Between nose and mouth: skin, free of glasses and hair."""
        centre = (self._points[NOSE] + self._mouth) / 2
        return self._draw_disc(centre, 0.75 * self._face_length) & self.face

    @cached_property
    def head(self) -> np.ndarray:
        """Head with hair and hat, above the mouth."""
        return (self._draw_around_eyes(CROWN) & self._cut(self._mouth, -self._down_face)) | (
            self.face
        )

    @cached_property
    def crown(self) -> np.ndarray:
        """Hair or hat, above the eyes."""
        above = self._eyes - 0.5 * self._face_length * self._down_face
        return self.head & self._cut(above, -self._down_face)

    @cached_property
    def hair(self) -> np.ndarray:
        """As far as long hair reaches."""
        return self._draw_around_eyes(4.5)

    @cached_property
    def nape(self) -> np.ndarray:
        """Around the head, above the chin."""
        around = self._draw_disc(self._mouth, NAPE * self._face_length)
        return around & self._cut(self._chin, -self._down_face) & self.has_face

    @cached_property
    def neck(self) -> np.ndarray:
        """Between the chin and the shoulders; empty where no face is visible."""
        if not self.has_face:
            return np.zeros(self.shape, bool)
        start = self._chin + 0.1 * self._face_length * self._down_face
        return self._draw_bone(start, self._neck, NECK * self._face_length)

    @property
    def _chin(self) -> np.ndarray:
        return self._mouth + CHIN * self._face_length * self._down_face

    @cached_property
    def torso(self) -> np.ndarray:
        """Between shoulders and hips, with a margin."""
        left, right = self._shoulders
        corners = self._draw_polygon([right, left, *self._hips])
        return dilate(corners, TORSO_MARGIN * self.unit)

    @cached_property
    def chest(self) -> np.ndarray:
        """What a top covers surely: the upper half of the torso, without its sides."""
        return self._draw_chest(0.75)

    @cached_property
    def heart(self) -> np.ndarray:
        """The middle of the chest."""
        return self._draw_chest(0.6)

    def _draw_chest(self, width: float) -> np.ndarray:
        left, right = (self._neck + width * (point - self._neck) for point in self._shoulders)
        low = [
            self._pelvis + width * (hip - self._pelvis) + 0.5 * (self._neck - self._pelvis)
            for hip in self._hips
        ]
        return self._draw_polygon([right, left, *low])

    @cached_property
    def above_belt(self) -> np.ndarray:
        """What trousers or a skirt do not cover surely: the torso above the highest waist."""
        left, right = self._shoulders
        lift = 0.6 * (self._neck - self._pelvis)
        return self._draw_polygon([right, left, *(hip + lift for hip in self._hips)])

    @cached_property
    def pelvis(self) -> np.ndarray:
        """A bar from hip to hip."""
        left, right = self._hips
        return self._draw_bone(left, right, HIP_CORE * self.unit)

    @cached_property
    def above_hips(self) -> np.ndarray:
        return self._cut(self._pelvis, self._up)

    @cached_property
    def below_waist(self) -> np.ndarray:
        return self._cut(self._pelvis + WAIST * (self._neck - self._pelvis), -self._up)

    @cached_property
    def below_shoulders(self) -> np.ndarray:
        return self._cut(self._neck + 0.1 * self.unit * self._up, -self._up)

    @cached_property
    def arms(self) -> np.ndarray:
        """Visible arms to the wrists, with a margin."""
        mask = np.zeros(self.shape, bool)
        for shoulder, elbow, wrist in zip(SHOULDERS, ELBOWS, WRISTS, strict=True):
            if self.visible[elbow]:
                mask |= self._draw_limb(shoulder, elbow, UPPER_ARM)
                if self.visible[wrist]:
                    mask |= self._draw_limb(elbow, wrist, FOREARM)
        return mask

    @cached_property
    def forearms(self) -> np.ndarray:
        """Visible forearms, without a margin."""
        mask = np.zeros(self.shape, bool)
        for elbow, wrist in zip(ELBOWS, WRISTS, strict=True):
            if self.visible[[elbow, wrist]].all():
                mask |= self._draw_limb(elbow, wrist, BONE)
        return mask

    @cached_property
    def hands(self) -> Sequence[Hand]:
        """Those whose elbow and wrist are visible."""
        hands = []
        for elbow, wrist, little, index in zip(
            ELBOWS, WRISTS, LITTLE_FINGERS, INDEX_FINGERS, strict=True
        ):
            if not self.visible[[elbow, wrist]].all():
                continue
            joint = self._points[wrist]
            along = joint - self._points[elbow]
            along = along / max(float(np.linalg.norm(along)), 1.0)
            roots = (self._points[little] + self._points[index]) / 2
            centre = (joint + roots) / 2
            tip = roots + 0.5 * (roots - joint)
            core = self._draw_bone(centre, tip, HAND_CORE * self.unit)
            beyond = self._cut(joint - 0.02 * self.unit * along, along)
            hands.append(Hand(centre, along, core, beyond))
        return hands

    @cached_property
    def legs(self) -> np.ndarray:
        """With a margin."""
        mask = np.zeros(self.shape, bool)
        for hip, knee, ankle in self._list_legs():
            mask |= self._draw_bone(hip, knee, THIGH * self.unit)
            if ankle is not None:
                mask |= self._draw_bone(knee, ankle, SHIN * self.unit)
        return mask

    @cached_property
    def leg_cores(self) -> np.ndarray:
        """What trousers cover and a top does not, surely."""
        mask = np.zeros(self.shape, bool)
        for hip, knee, ankle in self._list_legs():
            mask |= self._draw_bone(hip + 0.35 * (knee - hip), knee, LEG_CORE * self.unit)
            if ankle is not None:
                mask |= self._draw_bone(knee, knee + 0.6 * (ankle - knee), LEG_CORE * self.unit)
        return mask

    @cached_property
    def feet(self) -> np.ndarray:
        mask = np.zeros(self.shape, bool)
        for (_, knee, ankle), toe in zip(self._list_legs(), TOES, strict=True):
            if ankle is not None:
                start = ankle + 0.15 * (ankle - knee)
                mask |= self._draw_bone(start, self._points[toe], FOOT * self.unit)
        return mask

    def _list_legs(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Hip, knee and ankle; a missing knee is assumed below the hip, then without ankle."""
        legs: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
        for hip, knee, ankle in zip(self._hips, KNEES, ANKLES, strict=True):
            if not self.visible[knee]:
                below = hip + THIGH_LENGTH * (self._pelvis - self._neck)
                legs.append((hip, below, None))
            else:
                end = self._points[ankle] if self.visible[ankle] else None
                legs.append((hip, self._points[knee], end))
        return legs

    def draw_disc(self, centre: np.ndarray, radius: float) -> np.ndarray:
        """radius: units."""
        return self._draw_disc(centre, radius * self.unit)

    def _draw_limb(self, start: int, end: int, thickness: float) -> np.ndarray:
        return self._draw_bone(self._points[start], self._points[end], thickness * self.unit)

    def _draw_bone(self, start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
        """A line with round ends, pixels."""
        strokes = Strokes(*self.shape)
        strokes.draw_line(start, end, 2 * radius)
        for point in (start, end):
            strokes.draw_ellipse(point, radius, radius)
        return strokes.mask > 0

    def _draw_polygon(self, corners: Sequence[np.ndarray]) -> np.ndarray:
        strokes = Strokes(*self.shape)
        strokes.draw_polygon(corners)
        return strokes.mask > 0

    def _draw_disc(self, centre: np.ndarray, radius: float) -> np.ndarray:
        strokes = Strokes(*self.shape)
        strokes.draw_ellipse(centre, radius, radius)
        return strokes.mask > 0

    def _draw_around_eyes(self, radius: float) -> np.ndarray:
        if not self.has_face:
            return np.zeros(self.shape, bool)
        return self._draw_disc(self._eyes, radius * self._face_length)

    def _draw_face(self, half_width: float, height: float) -> np.ndarray:
        """An upright ellipse in the head's direction. half_width: pixels; height: of half of it."""
        mask = np.zeros(self.shape, np.uint8)
        if self.has_face:
            centre = np.round((self._eyes + self._mouth) / 2).astype(int).tolist()
            axes = (max(1, round(half_width)), max(1, round(height * self._face_length)))
            angle = float(np.degrees(np.arctan2(self._down_face[1], self._down_face[0]))) - 90
            cv2.ellipse(mask, centre, axes, angle, 0, 360, 1, -1)
        return mask > 0

    def _contains(self, point: np.ndarray) -> bool:
        return bool((point >= 0).all() and point[0] < self.shape[1] and point[1] < self.shape[0])

    def _cut(self, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The half plane beyond a line through a point, across a direction."""
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        return (x - point[0]) * direction[0] + (y - point[1]) * direction[1] >= 0
