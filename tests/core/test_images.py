"""Decoding and writing images, and ComfyUI's IMAGE and MASK."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.golden import make_pixel_files, read_golden
from stableviton_core.errors import ImageError
from stableviton_core.image_tensors import (
    expand_batch,
    find_batch_size,
    make_agnostic_image,
    make_keep_mask,
    paste_back,
    resize_keep_mask,
    resize_to_person,
    split_alpha,
    to_arrays,
    to_images,
    to_mask,
    to_masks,
    to_rgb,
    to_signed,
)
from stableviton_core.images import (
    check_size,
    decode_image,
    fill_agnostic_region,
    list_images,
    make_image_grid,
    read_image,
    read_mask,
    write_image,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_array(*rows: list, dtype: type = np.uint8) -> np.ndarray:
    return np.array(rows, dtype)


# Decoding


def test_exif_orientation_is_applied():
    """Orientation 6: the stored image is turned clockwise by 90 degrees."""
    stored = make_array([RED, BLUE])  # 1 row, 2 columns
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encode(Image.fromarray(stored), exif=exif))
    assert decoded.tolist() == [[list(RED)], [list(BLUE)]]


def test_alpha_is_composited_over_white():
    rgba = make_array([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)])
    assert decode_image(encode(Image.fromarray(rgba))).tolist() == [
        [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    ]
    grey = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)])
    # 0.2 * 100 + 0.8 * 255 = 224
    assert decode_image(encode(grey)).tolist() == [[[224] * 3]]


def test_a_palette_with_transparency_is_composited_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    assert decode_image(encode(image)).tolist() == [[list(RED), list(BLUE)]]
    assert decode_image(encode(image, transparency=1)).tolist() == [[list(RED), [255] * 3]]


def test_grey_is_expanded_and_16_bits_are_scaled():
    grey = make_array([0, 7, 255])
    assert decode_image(encode(Image.fromarray(grey))).tolist() == [[[0] * 3, [7] * 3, [255] * 3]]
    deep = make_array([0, 257, 128 * 257, 65535], dtype=np.uint16)
    decoded = decode_image(encode(Image.fromarray(deep)))
    assert decoded.dtype == np.uint8 and decoded.shape == (1, 4, 3)
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None]
    decoded = decode_image(encode(Image.fromarray(ramp)))
    assert np.abs(decoded[0, :, 0] - np.linspace(0, 255, 64)).max() <= 0.51


def test_files_that_are_no_images_are_errors(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png is missing"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"text\.png cannot be read as an image"):
        read_image(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encode(Image.fromarray(noise))
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"half\.png cannot be read as an image"):
        read_mask(tmp_path / "half.png")


def test_a_mask_is_binarised_at_128(tmp_path):
    write_image(tmp_path / "mask.png", make_array([0, 127, 128, 255]))
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 0, 255, 255]]
    write_image(tmp_path / "green.png", make_array([(0, 255, 0), (0, 0, 255)]))
    assert read_mask(tmp_path / "green.png").tolist() == [[255, 0]], "luma 150 and 29"


# Writing


def test_what_is_written_is_read(tmp_path):
    image = make_array([RED, BLUE], [BLUE, RED])
    write_image(tmp_path / "new" / "image.png", image)
    assert np.array_equal(read_image(tmp_path / "new" / "image.png"), image)
    for ending in ("jpg", "jpeg", "webp"):
        write_image(tmp_path / f"flat.{ending}", np.full((16, 16, 3), 90, np.uint8))
        assert np.abs(read_image(tmp_path / f"flat.{ending}").astype(int) - 90).max() <= 2
    with pytest.raises(ImageError, match=r"image\.gif cannot be written: .* \.png or \.jpg"):
        write_image(tmp_path / "image.gif", image)
    assert {file.suffix for file in tmp_path.iterdir()} == {"", ".jpg", ".jpeg", ".webp"}


def test_images_of_a_folder_are_listed_by_name(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty has no images"):
        list_images(tmp_path / "empty")
    with pytest.raises(ImageError, match="nowhere is not a folder"):
        list_images(tmp_path / "nowhere")


def test_an_image_grid_has_one_row_per_item():
    grid = make_image_grid(
        [np.full((2, 3, 3), level, np.uint8) for level in (1, 2)],
        [np.full((2, 3, 3), level, np.uint8) for level in (3, 4)],
    )
    assert grid[::2, ::3, 0].tolist() == [[1, 3], [2, 4]] and grid.shape == (4, 6, 3)


# IMAGE and MASK


def test_an_image_has_1_3_or_4_channels():
    grey = torch.tensor([0.25]).reshape(1, 1, 1, 1)
    assert to_rgb(grey).flatten().tolist() == [0.25] * 3
    colour = torch.tensor([0.1, 0.2, 0.3]).reshape(1, 1, 1, 3)
    assert torch.equal(to_rgb(colour), colour)
    opaque = torch.cat([colour, torch.ones(1, 1, 1, 1)], dim=-1)
    assert torch.equal(to_rgb(opaque), colour)
    clear = torch.tensor([1.0, 0.0, 0.0, 0.25]).reshape(1, 1, 1, 4)
    assert to_rgb(clear).flatten().tolist() == [1.0, 0.75, 0.75]
    for shape in ((1, 2, 2, 5), (2, 2, 3), (0, 2, 2, 3), (1, 0, 2, 3)):
        with pytest.raises(ImageError, match="1 to 4 channels, got " + " x ".join(map(str, shape))):
            to_rgb(torch.zeros(shape))


def test_images_of_two_and_four_channels_are_on_white():
    grey = torch.tensor([[[[0.2, 1.0], [0.2, 0.0], [0.2, 0.5]]]])
    assert torch.allclose(to_rgb(grey)[0, 0, :, 0], torch.tensor([0.2, 1.0, 0.6]))
    colours, alpha = split_alpha(grey)
    assert torch.equal(alpha[0, 0], torch.tensor([1.0, 0.0, 0.5])) and colours.shape == (1, 1, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_cast(dtype):
    image = torch.rand(1, 2, 3, 3)
    assert to_rgb(image.to(dtype)).dtype == torch.float32
    assert torch.equal(to_rgb(image.to(dtype)), image.to(dtype).float())
    assert to_mask(image[..., 0].to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_explained(value):
    image = torch.zeros(2, 4, 4, 3)
    image[1, 2, 3, 1] = value
    with pytest.raises(ImageError, match="image has NaN or infinity"):
        to_rgb(image)
    with pytest.raises(ImageError, match="garment mask has NaN or infinity"):
        to_mask(image[..., 1], "garment mask")


def test_a_mask_has_any_of_four_shapes():
    mask = torch.rand(2, 4, 3)
    assert torch.equal(to_mask(mask), mask)
    assert torch.equal(to_mask(mask[0]), mask[:1])
    assert torch.equal(to_mask(mask[:, None]), mask) and torch.equal(to_mask(mask[..., None]), mask)
    assert torch.equal(to_mask(mask > 0.5), (mask > 0.5).float())
    for wrong in (torch.rand(2, 4, 3, 3), torch.rand(4), torch.tensor(1.0), torch.zeros(1, 0, 3)):
        with pytest.raises(ImageError, match="expected batch x height x width"):
            to_mask(wrong)
    with pytest.raises(ImageError, match="numbers of type torch.uint8"):
        to_mask(torch.zeros(1, 4, 3, dtype=torch.uint8))


def test_images_masks_arrays_and_signed_values():
    arrays = [make_array([RED, (0, 51, 255)]), make_array([BLUE, RED])]
    images = to_images(arrays)
    assert images.shape == (2, 1, 2, 3) and images.dtype == torch.float32
    assert images[0, 0, 1].tolist() == pytest.approx([0, 0.2, 1])
    assert all(map(np.array_equal, to_arrays(images), arrays))
    signed = to_signed(images)
    assert signed.shape == (2, 3, 1, 2)
    assert signed[0, :, 0, 1].tolist() == pytest.approx([-1, -0.6, 1])
    assert to_arrays(torch.tensor([-1.0, 2.0, 0.5]).reshape(1, 1, 1, 3))[0].tolist() == [
        [[0, 255, 128]]
    ]
    assert to_masks([np.array([[True, False]])]).tolist() == [[[1.0, 0.0]]]


def test_a_batch_of_one_goes_with_any_other():
    assert find_batch_size({"person": 1, "garment": 3}) == 3
    assert expand_batch(torch.zeros(1, 2), 3).shape == (3, 2)
    with pytest.raises(ImageError, match="person 2, garment 3"):
        find_batch_size({"person": 2, "garment": 3})


def test_sizes_are_multiples_of_8():
    check_size("working size", 512, 384)
    with pytest.raises(ImageError, match="The working size is 384 x 500 .*multiples of 8"):
        check_size("working size", 500, 384)


def test_the_agnostic_region_is_grey_128():
    person, mask = make_array([RED, RED, RED]), torch.tensor([[[[0.0, 127 / 255, 128 / 255]]]])
    agnostic = make_agnostic_image(to_signed(to_images([person])), make_keep_mask(mask))
    assert ((agnostic + 1) * 127.5)[0, :, 0, 2].tolist() == pytest.approx([128] * 3)
    assert agnostic[0, :, 0, 0].tolist() == agnostic[0, :, 0, 1].tolist() == [1, -1, -1]
    filled = fill_agnostic_region(person, make_array([0, 1, 255]))
    assert filled.tolist() == [[list(RED), [128] * 3, [128] * 3]]


def test_feathering_lies_inside_the_mask():
    person, tryon = torch.zeros(1, 1, 9, 3), torch.ones(1, 1, 9, 3)
    mask = torch.zeros(1, 1, 9)
    mask[..., 1:8] = 1
    assert torch.equal(paste_back(person, tryon, mask, 0)[..., 0], mask)
    feathered = paste_back(person, tryon, mask, 1)[0, 0, :, 0]
    assert feathered.tolist() == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 0.5, 0], abs=0.01)


@pytest.mark.parametrize("size", ["512x384", "256x192", "640x480"])
def test_pixels_in_the_nodes_are_the_authors(size):
    height, width = map(int, size.split("x"))
    files, golden = make_pixel_files(), read_golden("pixel_path")
    for name in ("person", "densepose"):
        image = resize_to_person(name, to_signed(to_images([files[name]])), height, width)
        difference = image[0, :, ::16, ::16].permute(1, 2, 0) - golden[f"{name}/{size}"]
        assert difference.abs().max() <= 2 / 255  # 1 of 255 levels in -1..1
    mask = to_masks([files["mask"] / 255])
    keep = resize_to_person("mask", make_keep_mask(mask)[:, None], height, width)
    assert (keep[0, 0, ::4, ::4] - golden[f"keep/{size}"]).abs().max() <= 1 / 255
    latent = resize_keep_mask(keep, (height // 8, width // 8))[0, 0]
    assert (latent - golden[f"keep_latent/{size}"]).abs().max() <= 1 / 255
