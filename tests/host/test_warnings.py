"""What a creator is told before a poor result is sampled, and how an error is shown."""

import logging

import cv2
import pytest
import torch

from helpers.host import apply, conditioning, make_images, sample
from stableviton_core.image_tensors import to_images
from stableviton_core.images import read_image
from stableviton_core.serving.install import PACK


@pytest.fixture(scope="module")
def tryon(host, loaded) -> tuple:
    return conditioning(host, loaded, **make_images())


@pytest.fixture
def warnings(caplog):
    """A function that gives the warnings of the pack so far."""
    caplog.set_level(logging.WARNING)

    def read() -> list[str]:
        return [m for m in caplog.messages if m.startswith("StableVITON: ")]

    return read


def test_a_usual_sampling_warns_of_nothing(host, loaded, tryon, warnings):
    sample(apply(host, loaded[0], loaded), *tryon, cfg=2.0)
    assert warnings() == []


def test_a_model_without_apply_is_named(loaded, tryon, warnings):
    sample(loaded[0], *tryon)
    (message,) = warnings()
    assert "no zero cross-attention" in message and "Apply StableVITON" in message


def test_swapped_conditioning_is_named(host, loaded, tryon, warnings):
    positive, negative, latent = tryon
    sample(apply(host, loaded[0], loaded), negative, positive, latent)
    (message,) = warnings()
    assert "negative output of Encode Try-On. Exchange the two" in message


@pytest.mark.parametrize("cfg", [0.0, 8.0])
def test_an_unusual_cfg_is_named(host, loaded, tryon, warnings, cfg):
    sample(apply(host, loaded[0], loaded), *tryon, cfg=cfg)
    (message,) = warnings()
    assert f"cfg is {cfg:g}." in message


@pytest.mark.parametrize(("name", "expected"), [("photo.jpg", 1), ("person.png", 0)])
def test_a_photo_with_a_small_checkpoint_is_named(host, loaded, warnings, name, expected):
    image = to_images([cv2.resize(read_image(PACK / "demo" / name), (192, 256))])
    conditioning(host, loaded, **make_images(size=(256, 192)) | {"person": image})
    assert len(warnings()) == expected
    assert all("VITONHD.ckpt into models/stableviton" in message for message in warnings())


def test_an_empty_mask_is_refused(host, loaded, errors):
    inputs = make_images(batch=2)
    inputs["mask"][1] = 0.4
    with pytest.raises(errors, match="mask of person 2 is empty"):
        conditioning(host, loaded, **inputs)


def test_the_mask_of_an_opaque_image_is_explained(host, loaded, errors):
    """Load Image gives it for an image without alpha."""
    with pytest.raises(errors, match=r"empty and 64 x 64.*channel red"):
        conditioning(host, loaded, **make_images() | {"mask": torch.zeros(1, 64, 64)})


def test_comfyui_shows_errors_under_the_name_of_the_pack(host):
    import execution

    errors = host.module("stableviton_core.errors")
    people = host.module("stableviton_core.person.analysis")
    for error in (errors.StableVITONError, errors.ImageError, people.NoPersonError):
        assert execution.full_type_name(error) == "StableVITON"


def test_the_transparency_of_a_garment_is_its_mask(host, errors):
    photo = torch.zeros(1, 96, 96, 3)
    photo[:, 24:72, 36:60] = torch.tensor([0.8, 0.2, 0.2])
    transparent = torch.ones(1, 96, 96)
    transparent[:, 24:72, 36:60] = 0

    def cut_out(**inputs) -> tuple:
        return host.node("StableVITONGarment", width=96, height=128, **inputs)

    image, mask, _ = cut_out(photo=photo, transparency=transparent)
    rgba = torch.cat([photo, 1 - transparent[..., None]], dim=-1)
    assert torch.equal(image, cut_out(photo=rgba)[0])
    assert torch.equal(image, cut_out(photo=photo, mask=1 - transparent)[0])
    assert (image[0, 0, 0] == 1).all(), "white behind it"
    assert 0.1 < mask.mean() < 0.9
    opaque = torch.zeros(1, 64, 64)
    without = cut_out(photo=photo + 0.1)
    ignored = cut_out(photo=photo + 0.1, transparency=opaque)
    assert torch.equal(without[0], ignored[0])
    both = cut_out(
        photo=torch.cat([photo, photo + 0.1]),
        transparency=torch.cat([transparent, torch.zeros_like(transparent)]),
    )
    assert torch.equal(both[0][:1], image) and torch.equal(both[0][1:], without[0])
    with pytest.raises(errors, match="transparency"):
        cut_out(photo=photo, transparency=torch.ones(1, 2, 96, 96))
