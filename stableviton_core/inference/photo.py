"""A try-on of one photo: person and garment are prepared with the shipped networks, and the result
is put back into the photo."""

import logging

import numpy as np
from tqdm import tqdm

from ..dataset.samples import Sample
from ..image_tensors import to_arrays, to_images, to_masks
from ..images import fill_agnostic_region, read_image, write_image
from ..person.agnostic import (
    MASK_CATEGORIES,
    MaskOptions,
    PersonInputs,
    check_mask,
    make_agnostic_mask,
)
from ..person.analysis import analyze_person
from ..person.crop import CropRegion
from ..person.crop_box import crop_garment
from ..person.densepose import colour_parts
from ..person.garment import place_on_white
from ..person.garment_cutout import cut_out_garment
from ..person.stitch import stitch
from ..plms import plms_timesteps
from .config import TryOnConfig
from .tryons import load_networks, make_tryons

_log = logging.getLogger(__name__)


def dress_photo(config: TryOnConfig) -> None:
    """Write the photo `config.person` with the garment of `config.garment`, at the photo's size.
    Outside the agnostic mask its pixels are kept. StableVITONError where a photo cannot be read or
    shows no person or no garment, before a model is loaded."""
    assert config.person is not None and config.garment is not None
    photo = read_image(config.person)
    garment = read_image(config.garment)
    sample, region = prepare_sample(photo, garment, config)
    networks = load_networks(config)
    name = f"{config.person.stem}+{config.garment.stem}"
    with tqdm(total=len(plms_timesteps(config.steps)), desc=name, unit="step") as bar:
        (result,) = make_tryons(networks, [sample], [name], config, bar.update)
    mask = to_masks([sample.mask > 0])
    (dressed,) = to_arrays(stitch(region, to_images([result]), mask))
    write_image(config.output, dressed)


def prepare_sample(
    photo: np.ndarray, garment: np.ndarray, config: TryOnConfig
) -> tuple[Sample, CropRegion]:
    """The sample of two photos H x W x 3 uint8, cropped to where the largest person wears garments
    of the category, and the crop."""
    height, width = config.height, config.width
    options = MaskOptions(category=MASK_CATEGORIES[config.category or "upper"])
    region, image, pose = crop_garment(photo, options.category, height, width)
    person = analyze_person(image, pose, category=options.category)
    mask, _ = make_agnostic_mask(image, PersonInputs(person.pose, person.parse), options)
    check_mask(mask, options.category)
    cut_out = cut_out_garment(garment)
    for warning in cut_out.warnings:
        _log.warning("%s", warning)
    cloth, _ = place_on_white(cut_out.photo, cut_out.mask, height, width)
    sample = Sample(
        image=image,
        agnostic=fill_agnostic_region(image, mask),
        mask=np.where(mask, 255, 0).astype(np.uint8),
        densepose=colour_parts(person.parts),
        garment=cloth,
    )
    return sample, region
