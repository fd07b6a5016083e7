"""The person without the garment, and the garment alone: StableVITONAgnosticMask,
StableVITONGarment."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.image_tensors import (
    composite_over_white,
    expand_batch,
    find_batch_size,
    pair_with_masks,
    resize_mask_to_person,
    split_alpha,
    to_arrays,
    to_images,
    to_mask,
    to_masks,
    to_rgb,
)
from ..stableviton_core.images import check_size, fill_agnostic_region
from ..stableviton_core.person.agnostic import (
    AUTO,
    GARMENTS,
    RULES,
    SLEEVES,
    MaskOptions,
    PersonInputs,
    check_mask,
    make_agnostic_mask,
)
from ..stableviton_core.person.densepose import decode_parts
from ..stableviton_core.person.garment import place_on_white
from ..stableviton_core.person.garment_cutout import cut_out_garment, cut_out_worn_garment
from ..stableviton_core.person.garment_shape import GarmentShape, measure_garment
from ..stableviton_core.person.labels import Parse
from .host.progress import iterate_with_progress
from .host.server import show_warnings
from .person import fit_label_images, read_poses
from .sockets import (
    PERSON_CATEGORY,
    TRY_ON,
    ParseSocket,
    image_input,
    pose_input,
    preview,
    size_inputs,
)

GARMENT, WEARER = "garment", "person wearing it"  # what a garment's photo shows


class StableVITONAgnosticMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONAgnosticMask",
            display_name="Make Agnostic Mask",
            category=PERSON_CATEGORY,
            description="Mask what a try-on generates anew: the garment and what it may have "
            "covered, without the face and the rest of the person.",
            search_aliases=[*TRY_ON, "agnostic", "mask", "clothes mask", "inpaint"],
            inputs=[
                image_input(),
                io.Combo.Input(
                    "category",
                    options=list(GARMENTS),
                    default="upper",
                    tooltip="What is to be worn: upper (shirt, jacket), lower (trousers, skirt) or "
                    "dress. The released StableVITON knows upper garments.",
                ),
                io.Combo.Input(
                    "rule",
                    options=[AUTO, *RULES],
                    default="auto",
                    tooltip="viton-hd: as StableVITON's training data, upper only. parse+pose: as "
                    "OOTDiffusion and IDM-VTON. densepose: body parts only, not hair and loose "
                    "cloth. auto: parse+pose, or densepose where that alone is connected.",
                ),
                io.Combo.Input(
                    "sleeves",
                    options=list(SLEEVES),
                    default="long",
                    tooltip="How much of the arms is masked: long for all of them, so that any new "
                    "sleeve fits; short for the upper arms; as worn for none but what the parse "
                    "labels as the garment; as the new garment for its sleeves and its hem, "
                    "besides what is worn. Not used by viton-hd and for the category lower.",
                ),
                io.Boolean.Input(
                    "keep_hands",
                    default=True,
                    advanced=True,
                    tooltip="Leave the hands as they are. The rule viton-hd always does.",
                ),
                io.Boolean.Input(
                    "keep_hair",
                    default=True,
                    advanced=True,
                    tooltip="Leave hair over the garment as it is. Needs a parse that knows hair. "
                    "The rule viton-hd masks it.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-256,
                    max=256,
                    advanced=True,
                    tooltip="Pixels by which the mask grows, or shrinks if negative. Face, kept "
                    "hair and kept hands stay free.",
                ),
                io.Int.Input(
                    "blur",
                    default=0,
                    min=0,
                    max=128,
                    advanced=True,
                    tooltip="Pixels over which the MASK's edge becomes soft. The agnostic IMAGE is "
                    "grey where it is over one half.",
                ),
                ParseSocket.Input(
                    "parse",
                    optional=True,
                    tooltip="From Parse Clothes. Without it, labels come from the DensePose "
                    "image, or from the pose.",
                ),
                pose_input("Without them the built-in network looks for the largest person."),
                io.Image.Input(
                    "densepose",
                    optional=True,
                    tooltip="A DensePose image in Parula or Viridis colours.",
                ),
                io.Mask.Input(
                    "add", optional=True, tooltip="White (1) is added to the mask, as drawn."
                ),
                io.Mask.Input(
                    "remove", optional=True, tooltip="White (1) is taken out of the mask, as drawn."
                ),
                io.Mask.Input(
                    "garment_mask",
                    optional=True,
                    tooltip="The new garment, from Cut Out Garment, for sleeves = as the new "
                    "garment. It is measured lying flat and upright.",
                ),
            ],
            outputs=[
                io.Mask.Output(tooltip="White (1) where the try-on is generated."),
                io.Image.Output(
                    display_name="agnostic", tooltip="The person with the mask filled with grey."
                ),
                io.String.Output(
                    display_name="rule", tooltip="The rule that was used, and from what."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        blur: int,
        parse: Parse | None = None,
        pose_keypoint: list | None = None,
        densepose: Tensor | None = None,
        add: Tensor | None = None,
        remove: Tensor | None = None,
        garment_mask: Tensor | None = None,
        **rule_options,
    ) -> io.NodeOutput:
        """rule_options: the fields of MaskOptions."""
        image = to_rgb(image)
        height, width = image.shape[1:3]
        options = MaskOptions(**rule_options)
        shapes: list[GarmentShape | None] = [None]
        if garment_mask is not None:
            items = to_mask(garment_mask, "garment mask").cpu().numpy()
            shapes = [measure_garment(item >= 0.5) for item in items]
        inputs = {"mask to add": add, "mask to remove": remove}
        if parse is not None:
            inputs["parse"] = torch.from_numpy(parse.labels).float()
        resized = {
            name: resize_mask_to_person(name, value, height, width)
            for name, value in inputs.items()
            if value is not None
        }
        sizes = {"image": len(image), "garment mask": len(shapes)}
        sizes |= {name: len(value) for name, value in resized.items()}
        part_images = []
        if densepose is not None:
            part_images = fit_label_images("DensePose", densepose, image)
            sizes["DensePose"] = len(part_images)
        batch = find_batch_size(sizes)
        maps = {name: expand_batch(value, batch).cpu().numpy() for name, value in resized.items()}
        arrays = to_arrays(expand_batch(image, batch))
        poses = read_poses(pose_keypoint, batch, height, width)
        masks, rules = [], []
        for index, array in enumerate(iterate_with_progress(arrays)):
            person = PersonInputs(pose=poses[index])
            if parse is not None:
                labels = maps["parse"][index].astype(np.uint8)
                person = replace(
                    person, parse=labels, source=parse.source, approximate=parse.approximate
                )
            if part_images:
                parts = decode_parts(part_images[index % len(part_images)])
                person = replace(person, parts=parts)
            worn = replace(options, new_garment=shapes[index % len(shapes)])
            mask, used_rule = make_agnostic_mask(array, person, worn)
            if add is not None:
                mask |= maps["mask to add"][index] >= 0.5
            if remove is not None:
                mask &= maps["mask to remove"][index] < 0.5
            check_mask(mask, options.category)
            masks.append(soften_mask(mask, blur))
            rules.append(used_rule)
        agnostic = to_images(
            [fill_agnostic_region(a, m >= 0.5) for a, m in zip(arrays, masks, strict=True)]
        )
        used_rules = "; ".join(dict.fromkeys(rules))
        return io.NodeOutput(to_masks(masks), agnostic, used_rules, ui=preview(agnostic, cls))


def soften_mask(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Mask H x W bool -> float32 in 0..1 whose edge is blurred over a number of pixels."""
    soft = mask.astype(np.float32)
    return cv2.GaussianBlur(soft, (0, 0), pixels / 2) if pixels else soft


class StableVITONGarment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONGarment",
            display_name="Cut Out Garment",
            category=PERSON_CATEGORY,
            description="Cut a garment out of its photo and lay it on white, centred, at the "
            "working size, as StableVITON expects it.",
            search_aliases=[*TRY_ON, "remove background", "cloth", "mask"],
            inputs=[
                io.Image.Input(
                    "photo",
                    tooltip="The garment lying or hanging flat, best on a plain background of "
                    "another colour, or a person wearing it. The alpha of a transparent image is "
                    "taken as its mask.",
                ),
                *size_inputs("Of the working image, as in Crop Person."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White (1) where the garment is. Without it the built-in network "
                    "(U-2-Net) finds what stands out from the background.",
                ),
                io.Combo.Input(
                    "shows",
                    options=[GARMENT, WEARER],
                    default=GARMENT,
                    optional=True,
                    tooltip="What the photo shows. garment: lying, or on a hanger. person wearing "
                    "it: it is cut out of the largest person; hands, arms and hair in front of it "
                    "are filled from around.",
                ),
                io.Combo.Input(
                    "category",
                    options=list(GARMENTS),
                    default="upper",
                    optional=True,
                    tooltip="For a person wearing it: which garment.",
                ),
                io.Boolean.Input(
                    "straighten",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Turn a garment that lies askew, by up to 45 degrees, so that its "
                    "halves are alike.",
                ),
                io.Mask.Input(
                    "transparency",
                    optional=True,
                    tooltip="The MASK of Load Image: white (1) where the photo is transparent. "
                    "Empty for an opaque photo, and then without effect.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The garment on white."),
                io.Mask.Output(tooltip="White (1) where the garment is."),
                io.String.Output(
                    display_name="warnings",
                    tooltip="Why the cut-out may be wrong; empty where nothing speaks against it.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        photo: Tensor,
        width: int,
        height: int,
        mask: Tensor | None = None,
        shows: str = GARMENT,
        category: str = "upper",
        straighten: bool = True,
        transparency: Tensor | None = None,
    ) -> io.NodeOutput:
        check_size("working size", height, width)
        photo, alpha = split_alpha(photo)
        if transparency is not None:
            alpha = read_transparency(transparency, photo, alpha)
        if alpha is not None and mask is None and shows == GARMENT:
            photo, alphas = pair_with_masks(photo, alpha)
            masks = [None if item is None or item.min() >= 0.5 else item for item in alphas]
        else:
            if alpha is not None:
                photo = composite_over_white(photo, alpha)
            photo, masks = pair_with_masks(photo, mask)
        warnings: list[str] = []
        garments, garment_masks = [], []
        for index, array in enumerate(iterate_with_progress(to_arrays(photo))):
            if shows == WEARER and masks[index] is None:
                cut_out = cut_out_worn_garment(array, category)
            else:
                cut_out = cut_out_garment(array, masks[index], straighten)
            garment, garment_mask = place_on_white(cut_out.photo, cut_out.mask, height, width)
            garments.append(garment)
            garment_masks.append(garment_mask)
            warnings += cut_out.warnings
        show_warnings(warnings)
        on_white = to_images(garments)
        return io.NodeOutput(
            on_white, to_masks(garment_masks), "\n".join(warnings), ui=preview(on_white, cls)
        )


def read_transparency(transparency: Tensor, photo: Tensor, alpha: Tensor | None) -> Tensor | None:
    """The alpha of photos B x H x W x 3 by a MASK of what is transparent in them, which Load Image
    makes empty and 64 x 64 for opaque ones: `alpha` then. ImageError where they do not fit."""
    transparency = to_mask(transparency, "transparency")
    if not bool(transparency.any()):
        return alpha
    opaque = 1 - resize_mask_to_person("transparency", transparency, *photo.shape[1:3])
    batch = find_batch_size({"photo": len(photo), "transparency": len(opaque)})
    return expand_batch(opaque, batch)
