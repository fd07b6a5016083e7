"""Calls of the nodes that prepare photos, with their default inputs."""

from torch import Tensor

from helpers.golden import FOLDER

PHOTO = FOLDER / "person" / "grace_hopper.jpg"
LARGEST = {"person": "largest", "point_x": 0.5, "point_y": 0.5}
SKELETON = {"model": "skeleton (approximate)"}
MASK = {
    "category": "upper",
    "rule": "auto",
    "sleeves": "long",
    "keep_hands": True,
    "keep_hair": True,
    "grow": 0,
    "blur": 0,
}
PARSE = {**SKELETON, "labels": "upper, coat, dress", "scheme": "viton-hd"}


def pose(host, image: Tensor, **options) -> tuple:
    return host.node("StableVITONPose", image=image, **({"model": "blazepose"} | LARGEST | options))


def mask(host, image: Tensor, **options) -> tuple:
    return host.node("StableVITONAgnosticMask", image=image, **(MASK | options))


def densepose(host, image: Tensor, **options) -> tuple:
    return host.node("StableVITONDensePose", image=image, **(SKELETON | LARGEST | options))


def parse(host, image: Tensor, **options) -> tuple:
    return host.node("StableVITONParse", image=image, **(PARSE | options))
