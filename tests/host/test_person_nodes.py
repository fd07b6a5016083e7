"""The nodes that prepare photos, on the real host."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.person_nodes import PHOTO, densepose, mask, parse, pose
from stableviton_core.image_tensors import to_arrays, to_images
from stableviton_core.images import read_image
from stableviton_core.person.agnostic import MaskOptions, PersonInputs, make_agnostic_mask
from stableviton_core.person.garment_shape import measure_garment


def test_a_photo_becomes_all_that_a_tryon_needs(host, working):
    keypoints, drawn = pose(host, working)
    found, coloured, cloth, source = parse(host, working, pose_keypoint=keypoints)
    parts, numbers, parts_source = densepose(host, working, pose_keypoint=keypoints)
    region, agnostic, rule = mask(host, working, parse=found, pose_keypoint=keypoints)
    for output in (drawn, coloured, parts, numbers, agnostic):
        assert output.shape == working.shape and output.dtype == torch.float32
        assert output.min() >= 0 and 0 < output.max() <= 1
    assert source == parts_source == "skeleton (approximate)"
    assert rule == "parse+pose, from skeleton (approximate)"
    assert 0.2 < region.mean() < 0.7 and region[cloth > 0].mean() > 0.99
    assert torch.allclose(agnostic[region == 0], working[region == 0], atol=0.5 / 255)
    assert (agnostic[region > 0] - 128 / 255).abs().max() < 1e-6
    alone, _, alone_rule = mask(host, working)
    assert torch.equal(alone, region) and alone_rule == rule, "it finds the same by itself"
    face = (found.labels == 13) & (np.arange(512)[None, :, None] < 200)
    assert face.sum() > 1000 and not region.numpy()[face].any()
    levels = (numbers[..., 0] * 255).round().int()
    assert levels.max() == 23 and torch.equal(levels > 0, parts.sum(dim=-1) > 0)


@pytest.mark.parametrize("share", [False, True])
def test_keypoints_of_another_pack_give_the_same_mask(host, working, share):
    """Shares of the image, None for a body, hands and feet: as comfyui_controlnet_aux has it."""
    (keypoints,), _ = pose(host, working)
    theirs = copy.deepcopy(keypoints)
    for person in theirs["people"]:
        numbers = np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
        if share:
            numbers[:, :2] /= (384, 512)
        person["pose_keypoints_2d"] = numbers.reshape(-1).tolist()
        person |= {"face_keypoints_2d": None, "foot_keypoints_2d": [1.0, 2.0, 0.0] * 6}
    theirs["people"].append({"pose_keypoints_2d": None})
    expected, *_ = mask(host, working, pose_keypoint=[keypoints])
    assert torch.equal(mask(host, working, pose_keypoint=[theirs])[0], expected)


def test_of_several_persons_the_wanted_one_is_taken(host, photo):
    gap = torch.full((1, 600, 300, 3), 0.5)
    several = torch.cat([photo, gap, photo.flip(2) * 0.9], dim=2)
    (everyone,), _ = pose(host, several, person="everyone")
    assert len(everyone["people"]) == 2
    for point, side in ((0.2, 0), (0.8, 1)):
        chosen = {"person": "nearest to point", "point_x": point}
        keypoints, _ = pose(host, several, **chosen)
        (person,) = keypoints[0]["people"]
        assert (person["pose_keypoints_2d"][0] > 662) == side, "the nose"
        region, *_ = mask(host, several, pose_keypoint=keypoints)
        half = torch.zeros_like(region, dtype=torch.bool)
        half[:, :, side * 662 : (side + 1) * 662] = True
        assert region[half].sum() > 0.97 * region.sum()
        parts, *_ = densepose(host, several, **chosen)
        assert (parts.sum(dim=-1) > 0)[half].sum() > 0.97 * (parts.sum(dim=-1) > 0).sum()


# Rules and options


def test_drawn_masks_add_and_remove(host, working):
    plain, *_ = mask(host, working)
    corner, belly = torch.zeros(1, 512, 384), torch.zeros(1, 512, 384)
    corner[:, :20, :20] = 1
    belly[:, 420:440, 180:200] = 1
    drawn, agnostic, _ = mask(host, working, add=corner, remove=belly)
    assert torch.equal(drawn, (plain + corner).clamp(max=1) * (1 - belly))
    assert torch.allclose(agnostic[belly > 0], working[belly > 0], atol=1 / 255)


def test_growing_spares_the_face(host, working):
    plain, *_ = mask(host, working)
    grown, *_ = mask(host, working, grow=20)
    shrunk, *_ = mask(host, working, grow=-20)
    assert (grown >= plain).all() and (shrunk <= plain).all()
    assert grown.sum() > plain.sum() > shrunk.sum()
    found, *_ = parse(host, working)
    assert not grown.numpy()[found.labels == 13].any()


def test_blur_softens_the_mask_and_not_the_agnostic_image(host, working):
    plain, agnostic, _ = mask(host, working)
    soft, same, _ = mask(host, working, blur=8)
    assert ((soft > 0) & (soft < 1)).any()
    assert (soft - plain).abs().mean() < 0.05
    assert ((same - agnostic).abs().amax(dim=-1) > 0).float().mean() < 0.02


def test_the_rule_is_named(host, working):
    parts, *_ = densepose(host, working)
    assert mask(host, working, densepose=parts)[2] == "densepose, from DensePose image"
    keypoints, _ = pose(host, working)
    rule = mask(host, working, densepose=parts, pose_keypoint=keypoints)[2]
    assert rule == "parse+pose, from DensePose image"
    found, coloured, *_ = parse(host, working)
    rule = mask(host, working, parse=found, rule="viton-hd")[2]
    assert rule == "viton-hd, from skeleton (approximate)"
    read, *_ = parse(host, working, label_image=coloured)
    assert np.array_equal(read.labels, found.labels) and not read.approximate
    assert mask(host, working, parse=read)[2] == "parse+pose, from label image (viton-hd)"


def test_one_image_with_many_drawn_masks(host, working):
    drawn = torch.zeros(3, 512, 384)
    for index in range(3):
        drawn[index, : 10 * (index + 1), :20] = 1
    region, agnostic, _ = mask(host, working, add=drawn)
    assert len(region) == len(agnostic) == 3
    for index in range(3):
        alone, *_ = mask(host, working, add=drawn[index : index + 1])
        assert torch.equal(region[index], alone[0])


def test_a_drawn_mask_helps_where_a_rule_finds_nothing(host, working, errors):
    nothing = torch.zeros_like(working)
    nothing[:, 100:200, 100:200] = torch.tensor([0.0, 0.0, 1.0])  # a face
    faces, *_ = parse(host, working, label_image=nothing)
    with pytest.raises(errors, match="nothing of the category 'upper' was found"):
        mask(host, working, parse=faces, sleeves="as worn")
    drawn = torch.zeros(1, 512, 384)
    drawn[:, 300:400] = 1
    assert torch.equal(mask(host, working, parse=faces, sleeves="as worn", add=drawn)[0], drawn)


def test_a_densepose_of_other_colours_is_converted(host, working):
    parts, numbers, _ = densepose(host, working)
    module = host.module("stableviton_core.person.densepose")
    indices = (numbers[0, ..., 0] * 255).round().byte().numpy()
    viridis = torch.from_numpy(module.VIRIDIS_PALETTE[indices])[None].float() / 255
    converted, same, source = densepose(host, working, densepose=viridis)
    assert torch.equal(converted, parts) and torch.equal(same, numbers)
    assert source == "DensePose image"


def test_a_garment_lies_flat_on_white(host):
    photo = torch.full((1, 300, 500, 3), 0.6)
    photo[:, 50:250, 100:300] = torch.tensor([0.8, 0.1, 0.1])
    shape = torch.zeros(1, 300, 500)
    shape[:, 50:250, 100:300] = 1
    for given in ({}, {"mask": shape}):
        flat, found, _ = host.node(
            "StableVITONGarment", photo=photo, width=384, height=512, **given
        )
        assert flat.shape == (1, 512, 384, 3) and found.shape == (1, 512, 384)
        assert flat[0, 256, 192, 0] > 0.75 and flat[0, 256, 192, 1] < 0.2
        assert flat[0, 5, 5].min() > 0.99 and found[0, 256, 192] > 0.95 and found[0, 5, 5] < 0.01
        rows = torch.nonzero(found[0, :, 192] > 0.5)
        assert abs(rows.float().mean() - 255.5) < 6, "it is centred"


def test_alpha_is_the_garments_mask(host):
    photo = torch.full((1, 300, 500, 4), 0.6)
    photo[..., 3] = 0
    photo[:, 50:250, 100:300] = torch.tensor([0.8, 0.1, 0.1, 1.0])
    options = {"width": 384, "height": 512}
    flat, found, warnings = host.node("StableVITONGarment", photo=photo, **options)
    given, shape, _ = host.node(
        "StableVITONGarment", photo=photo[..., :3], mask=photo[..., 3], **options
    )
    assert torch.equal(flat, given) and torch.equal(found, shape) and warnings == ""
    photo[..., 3] = 1
    opaque = host.node("StableVITONGarment", photo=photo, **options)
    plain = host.node("StableVITONGarment", photo=photo[..., :3], **options)
    assert torch.equal(opaque[1], plain[1]), "an opaque image has no mask"


def test_a_garment_off_a_person(host, photo):
    options = {"width": 384, "height": 512, "shows": "person wearing it"}
    flat, found, warnings = host.node("StableVITONGarment", photo=photo, **options)
    assert found.mean() > 0.2 and "border" in warnings
    assert flat[found > 0.9].mean() < 0.4, "the navy jacket, without the sky"
    lying = host.node("StableVITONGarment", photo=photo, width=384, height=512)
    assert "A person is in the cut-out" in lying[2]


def test_the_mask_follows_the_new_garment(host, working):
    shape = torch.zeros(1, 200, 150)
    shape[:, 20:180, 40:110] = 1  # no sleeves
    given, *_ = mask(host, working, garment_mask=shape, sleeves="as the new garment")
    options = MaskOptions(
        sleeves="as the new garment", new_garment=measure_garment(shape[0].numpy() > 0)
    )
    expected, _ = make_agnostic_mask(to_arrays(working)[0], PersonInputs(), options)
    assert np.array_equal(given[0].numpy() > 0, expected)


# Bad input


def bad_images(photo: Tensor) -> dict[str, Tensor]:
    noise = torch.rand(1, 200, 150, 3, generator=torch.Generator().manual_seed(1))
    return {
        "nobody": noise,
        "a face": photo[:, 120:260, 180:330],
        "1 x 1": torch.full((1, 1, 1, 3), 0.5),
        "long": torch.full((1, 80, 12000, 3), 0.5),
        "black": torch.zeros(1, 256, 192, 3),
        "grey": photo.mean(dim=-1, keepdim=True),
        "alpha": torch.cat([photo, torch.ones_like(photo[..., :1])], dim=-1),
    }


@pytest.mark.parametrize("kind", ["nobody", "a face", "1 x 1", "long", "black", "grey", "alpha"])
def test_a_bad_image_is_an_error_or_gives_a_map(host, photo, errors, kind):
    image = bad_images(photo)[kind]
    calls = {
        "crop": lambda: host.node(
            "StableVITONCrop", photo=image, width=384, height=512, around="person"
        )[0],
        "pose": lambda: pose(host, image)[1],
        "parse": lambda: parse(host, image)[1],
        "densepose": lambda: densepose(host, image)[0],
        "mask": lambda: mask(host, image)[0],
    }
    for name, call in calls.items():
        try:
            result = call()
        except errors as error:
            assert kind in ("nobody", "a face", "1 x 1", "long", "black"), (name, error)
            assert len(str(error)) > 40
        else:
            assert result.any() and torch.isfinite(result).all(), name
            assert kind in ("a face", "grey", "alpha"), name


def test_a_garment_that_cannot_be_found(host, errors):
    def garment(photo: Tensor, **options) -> tuple:
        return host.node("StableVITONGarment", photo=photo, width=384, height=512, **options)

    plain = torch.full((1, 300, 200, 3), 0.5)
    with pytest.raises(errors, match="no garment stands out"):
        garment(plain)
    with pytest.raises(errors, match="mask is empty"):
        garment(plain, mask=torch.zeros(1, 300, 200))
    whole, shape, _ = garment(plain, mask=torch.ones(1, 300, 200))
    assert (whole[shape == 1] - 0.5).abs().max() < 0.01, "a full mask is all of the photo"
    with pytest.raises(errors, match="aspects differ"):
        garment(plain, mask=torch.ones(1, 100, 100))
    with pytest.raises(errors, match="multiples of 8"):
        host.node("StableVITONGarment", photo=plain, width=383, height=512)


def test_what_does_not_belong_to_the_image_is_refused(host, working, errors):
    other, *_ = parse(host, working[:, :, 32:-32])
    for wrong, message in (
        ({"parse": other}, "The parse is 320 x 512"),
        ({"densepose": working}, "no DensePose image"),
        ({"densepose": torch.zeros_like(working)}, "it is empty"),
        ({"pose_keypoint": [{"shapes": []}]}, "OpenPose JSON with a list 'people'"),
        ({"pose_keypoint": [{"people": []}]}, "show nobody"),
        ({"pose_keypoint": "nose"}, "one entry for each"),
        ({"add": torch.ones(1, 512, 384)}, "covers the whole image"),
        ({"remove": torch.ones(1, 512, 384)}, "the mask is empty"),
        ({"add": torch.ones(3, 512, 384), "remove": torch.zeros(2, 512, 384)}, "unequal length"),
        ({"category": "lower", "rule": "viton-hd"}, "upper garments only"),
        ({"sleeves": "as the new garment"}, "the garment's mask is missing"),
        (
            {"garment_mask": torch.zeros(1, 9, 9), "sleeves": "as the new garment"},
            "no shape to measure",
        ),
    ):
        with pytest.raises(errors, match=message):
            mask(host, working, **wrong)
    with pytest.raises(errors, match="label image is 320 x 512"):
        parse(host, working, label_image=working[:, :, 32:-32])
    region = host.node("StableVITONCrop", photo=working, width=384, height=512, around="person")[2]
    with pytest.raises(errors, match="aspects differ"):
        host.node("StableVITONStitch", crop=region, image=working[:, :384])
    with pytest.raises(errors, match="no label map in lip's colours"):
        parse(host, working, label_image=working, scheme="lip")
    with pytest.raises(errors, match="got 'shirt'"):
        parse(host, working, labels="upper, shirt")


def test_nothing_here_touches_the_global_random_state(host, working):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    keypoints, _ = pose(host, working)
    parse(host, working, pose_keypoint=keypoints)
    mask(host, working, pose_keypoint=keypoints)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


# Real photos, against polygons drawn by hand in their working images


def find_man() -> Path:
    """A generated image that comes with the host."""
    package = pytest.importorskip("comfyui_workflow_templates_media_image")
    folder = Path(package.__file__).parent / "templates"
    return folder / "image_flux2_klein_9b_kv_image_edit-2.webp"


JACKET = [
    (150, 272),
    (152, 300),
    (170, 345),
    (215, 345),
    (250, 300),
    (258, 276),
    (300, 300),
    (330, 312),
    (372, 335),
    (383, 350),
    (383, 478),
    (6, 478),
    (12, 420),
    (24, 355),
    (36, 318),
    (80, 300),
    (110, 285),
]
T_SHIRT = [
    (181, 94),
    (202, 105),
    (230, 81),
    (266, 105),
    (286, 157),
    (256, 161),
    (246, 218),
    (165, 218),
    (161, 190),
    (139, 177),
    (145, 145),
    (161, 109),
]


@pytest.mark.parametrize(
    ("find_file", "garment", "face"),
    [(lambda: PHOTO, JACKET, ((195, 205), (60, 72))), (find_man, T_SHIRT, ((181, 56), (20, 28)))],
    ids=["jacket", "t-shirt"],
)
def test_the_mask_covers_the_garment_and_no_face(host, find_file, garment, face):
    file = find_file()
    if not file.is_file():
        pytest.skip(f"this host comes without {file.name}")
    photo = to_images([read_image(file)])
    working, *_ = host.node("StableVITONCrop", photo=photo, width=384, height=512, around="person")
    region = mask(host, working)[0][0].numpy() > 0
    drawn, visage = np.zeros((512, 384), np.uint8), np.zeros((512, 384), np.uint8)
    cv2.fillPoly(drawn, [np.array(garment)], 1)
    cv2.ellipse(visage, *face, 0, 0, 360, 1, -1)
    assert region[drawn > 0].mean() >= 0.95
    assert not region[visage > 0].any()
