"""Encoding images as conditioning, and pasting the result back."""

import pytest
import torch

from helpers.checkpoints import SMALL, seeded_weights
from helpers.host import conditioning, make_images
from stableviton_core.image_tensors import pad_garment
from stableviton_core.model.checkpoint import split
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.model.vae import build_autoencoder, load_ldm


@pytest.fixture(scope="module")
def trainer_models():
    """The same weights in diffusers' and transformers' classes."""
    components = split(seeded_weights())
    model, autoencoder = TryOnModel(SMALL), build_autoencoder(SMALL.autoencoder)
    model.load_components(components)
    load_ldm(autoencoder, components["autoencoder"])
    return model.eval(), autoencoder.eval()


@torch.no_grad()
def test_latents_and_context_equal_the_trainers(host, loaded, trainer_models):
    model, autoencoder = trainer_models
    inputs = make_images()
    (positive,), (negative,), latent = conditioning(host, loaded, **inputs)

    def mode(image: torch.Tensor) -> torch.Tensor:
        return autoencoder.encode(image.movedim(-1, 1) * 2 - 1).latent_dist.mode()

    scale = SMALL.autoencoder.latent_scale
    grey = inputs["person"].clone()
    grey[inputs["mask"] == 1] = 128 / 255
    expected = {
        "stableviton_agnostic": mode(grey) * scale,
        "stableviton_densepose": mode(inputs["densepose"]) * scale,
        "stableviton_garment": mode(inputs["garment"]) * scale,
    }
    for key, value in expected.items():
        assert torch.allclose(positive[1][key], value, atol=1e-5), key
        assert torch.equal(positive[1][key], negative[1][key])
    assert torch.allclose(latent["samples"], mode(inputs["person"]), atol=1e-4)
    context = model.image_projector.proj_out(
        model.embed_garment(inputs["garment"].movedim(-1, 1) * 2 - 1)
    )
    assert torch.allclose(positive[0], context, atol=1e-5)
    assert torch.equal(negative[0], model.image_projector.learnable_vector)


def test_keep_mask_is_binarised_before_it_is_scaled_down(host, loaded):
    inputs = make_images()
    inputs["mask"] = torch.zeros_like(inputs["mask"])
    inputs["mask"][:, :, 4:] = 128 / 255
    inputs["mask"][:, :, 20:] = 127 / 255
    (positive,), _, _ = conditioning(host, loaded, **inputs)
    keep = positive[1]["stableviton_keep"]
    assert keep.shape == (1, 1, 16, 12)
    # Columns 3 and 4 of each 8 are averaged: 1 keep, 0 change; the edge lies between them.
    assert keep[0, 0, 0].tolist() == [0.5, 0, 0.5] + [1] * 9


def test_an_agnostic_image_is_used_as_it_is(host, loaded):
    inputs = make_images()
    ready = inputs["person"].clone()
    ready[inputs["mask"] == 1] = 128 / 255
    with_mask = conditioning(host, loaded, **inputs)[0][0][1]["stableviton_agnostic"]
    given = conditioning(host, loaded, **inputs, agnostic=ready)[0][0][1]["stableviton_agnostic"]
    assert torch.allclose(with_mask, given, atol=1e-5)


def test_transparency_is_composited_over_white(host, loaded):
    inputs = make_images()
    alpha = torch.ones_like(inputs["garment"][..., :1])
    alpha[:, :40] = 0
    on_white = inputs["garment"] * alpha + (1 - alpha)
    transparent = torch.cat([inputs["garment"], alpha], dim=-1)
    (expected,), _, _ = conditioning(host, loaded, **inputs | {"garment": on_white})
    (given,), _, _ = conditioning(host, loaded, **inputs | {"garment": transparent})
    assert torch.allclose(given[0], expected[0], atol=1e-5)
    key = "stableviton_garment"
    assert torch.allclose(given[1][key], expected[1][key], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"person": (1, 130, 96, 3)}, r"96 x 130 .*multiples of 8.*Crop Person"),
        ({"mask": (1, 96, 96)}, r"mask is 96 x 96 .*person image 96 x 128"),
        ({"densepose": (1, 96, 128, 3)}, r"DensePose image is 128 x 96"),
        ({"person": (2, 128, 96, 3), "garment": (3, 128, 96, 3)}, r"person 2.*garment 3"),
    ],
)
def test_images_that_do_not_fit_are_errors(host, loaded, change, message):
    inputs = make_images() | {name: torch.rand(shape) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        conditioning(host, loaded, **inputs)


def test_mask_and_densepose_of_another_resolution_are_resized_to_the_persons_size(host, loaded):
    inputs = make_images()
    large = inputs | {
        "mask": inputs["mask"].repeat_interleave(2, 1).repeat_interleave(2, 2),
        "densepose": inputs["densepose"].repeat_interleave(2, 1).repeat_interleave(2, 2),
    }
    expected, given = (conditioning(host, loaded, **i)[0][0][1] for i in (inputs, large))
    for key, value in expected.items():
        assert torch.equal(given[key], value), key


def test_a_garment_of_another_aspect_is_padded_with_its_border_colour():
    garment = torch.full((1, 3, 100, 100), -0.5)
    garment[:, :, 40:60, 40:60] = 1
    padded = pad_garment(garment, 128, 96)
    assert padded.shape == (1, 3, 128, 96)
    for edge in (padded[:, :, 0], padded[:, :, -1]):
        assert torch.allclose(edge, torch.tensor(-0.5))
    shape = (padded[0, 0] > 0.25).nonzero()
    height, width = (shape.max(0).values - shape.min(0).values + 1).tolist()
    assert abs(height - width) <= 1, "stretched"


def test_a_clip_vision_of_another_width_is_an_error(host, loaded):
    stableviton = loaded[1]
    other = type(stableviton)(
        stableviton.adapter,
        stableviton.image_projector,
        type(SMALL)(SMALL.network, type(SMALL.clip)(), SMALL.autoencoder),
    )
    with pytest.raises(ValueError, match="64 numbers.*takes 1024"):
        conditioning(host, (None, other, *loaded[2:]), **make_images())


@pytest.mark.parametrize("feather", [0, 1, 6])
def test_paste_back_keeps_the_outside_exactly(host, feather):
    inputs = make_images()
    tryon = make_images(name="tryon")["person"]
    (result,) = host.node(
        "StableVITONPasteBack",
        person=inputs["person"],
        tryon=tryon,
        mask=inputs["mask"],
        feather=feather,
    )
    outside = inputs["mask"] == 0
    assert torch.equal(result[outside], inputs["person"][outside])
    centre = (0, 48, 36)
    assert torch.allclose(result[centre], tryon[centre], atol=1e-6)
    edge = (0, 32, 36)
    blended = not torch.allclose(result[edge], tryon[edge], atol=1e-3)
    assert blended == (feather > 0)


def test_paste_back_of_a_batch_and_of_another_size(host):
    inputs = make_images()
    tryon = torch.rand(3, 256, 192, 3)
    (result,) = host.node(
        "StableVITONPasteBack", person=inputs["person"], tryon=tryon, mask=inputs["mask"], feather=2
    )
    assert result.shape == (3, 128, 96, 3)


def test_paste_back_averages_a_larger_tryon(host):
    tryon = torch.tensor([1.0, 0, 0, 1]).repeat(96)[None, None, :, None].expand(1, 512, 384, 3)
    inputs = make_images() | {"mask": torch.ones(1, 128, 96)}
    (result,) = host.node(
        "StableVITONPasteBack", person=inputs["person"], tryon=tryon, mask=inputs["mask"], feather=0
    )
    assert (result[:, 4:-4, 4:-4] - 0.5).abs().max() < 0.15, "every fourth pixel would give 0"
