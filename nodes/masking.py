"""The person without the garment, and the garment alone: StableVITONAgnosticMask,
StableVITONGarment."""

import cv2
import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..stableviton_core.inputs import batch_size, check_person_size, fitted, repeated
from ..stableviton_core.person.agnostic import GARMENTS, SLEEVES, MaskError, refilled
from ..stableviton_core.person.densepose import decode_parts
from ..stableviton_core.person.garment import flat_garment, garment_mask
from ..stableviton_core.person.labels import Parse
from ..stableviton_core.person.masking import RULES, Known, MaskOptions, agnostic_mask
from ..stableviton_core.person.pictures import three_channels, to_arrays, to_images, to_masks
from .host.progress import each
from .person import pose_input, poses_of
from .types import PERSON_CATEGORY, ParseSocket


class StableVITONAgnosticMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONAgnosticMask",
            display_name="StableVITON Agnostic Mask",
            category=PERSON_CATEGORY,
            description="Mask what a try-on generates anew: the garment and what it may have "
            "covered, without the face and the rest of the person.",
            search_aliases=["agnostic", "clothes mask", "cloth mask"],
            inputs=[
                io.Image.Input("image", tooltip="The person, best from StableVITON Frame."),
                io.Combo.Input(
                    "category", options=list(GARMENTS), default="upper",
                    tooltip="What is to be worn: upper (shirt, jacket), lower (trousers, skirt) or "
                    "dress. The released StableVITON knows upper garments.",
                ),
                io.Combo.Input(
                    "rule", options=list(RULES), default="auto",
                    tooltip="viton-hd: as StableVITON's training data, upper only. parse+pose: as "
                    "OOTDiffusion and IDM-VTON. densepose: body parts only, blind to hair and loose"
                    " cloth. auto: parse+pose, or densepose where that alone is connected.",
                ),
                io.Combo.Input(
                    "sleeves", options=list(SLEEVES), default="long",
                    tooltip="How much of the arms is masked: long for all of them, so that any new "
                    "sleeve fits; short for the upper arms; as worn for the old garment's sleeves "
                    "only. Not used by the rule viton-hd.",
                ),
                io.Boolean.Input(
                    "keep_hands", default=True,
                    tooltip="Leave the hands as they are. The rule viton-hd always does.",
                ),
                io.Boolean.Input(
                    "keep_hair", default=True,
                    tooltip="Leave hair over the garment as it is. Needs a parse that knows hair. "
                    "The rule viton-hd masks it.",
                ),
                io.Int.Input(
                    "grow", default=0, min=-256, max=256,
                    tooltip="Pixels by which the mask grows, or shrinks if negative. Face, kept "
                    "hair and kept hands stay free.",
                ),
                io.Int.Input(
                    "blur", default=0, min=0, max=128,
                    tooltip="Pixels over which the MASK's edge becomes soft. The agnostic IMAGE is "
                    "grey where it is over one half.",
                ),
                ParseSocket.Input(
                    "parse", optional=True,
                    tooltip="From StableVITON Parse. Without it: approximate parts from the pose.",
                ),
                pose_input(),
                io.Image.Input(
                    "densepose", optional=True,
                    tooltip="A DensePose image in Parula or Viridis colours.",
                ),
                io.Mask.Input(
                    "add", optional=True, tooltip="White (1) is added to the mask, as drawn."
                ),
                io.Mask.Input(
                    "remove", optional=True,
                    tooltip="White (1) is taken out of the mask, as drawn.",
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
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Tensor, category: str, rule: str, sleeves: str, keep_hands: bool,
        keep_hair: bool, grow: int, blur: int, parse: Parse | None = None,
        pose_keypoint: list | None = None, densepose: Tensor | None = None,
        add: Tensor | None = None, remove: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        height, width = image.shape[1:3]
        options = MaskOptions(rule, category, sleeves, keep_hands, keep_hair, grow)
        arrays = to_arrays(image)
        labels = None if parse is None else torch.from_numpy(parse.labels)[:, None].float()
        if densepose is not None:
            densepose = three_channels(densepose).movedim(-1, 1)  # B H W C -> B C H W
        drawn = {
            "parse": labels,
            "DensePose": densepose,
            "mask to add": None if add is None else add[:, None],  # B H W -> B 1 H W
            "mask to remove": None if remove is None else remove[:, None],
        }
        given = {
            name: fitted(name, value, height, width, "nearest")
            for name, value in drawn.items()
            if value is not None
        }
        batch_size({"image": len(arrays)} | {name: len(value) for name, value in given.items()})
        given = {name: repeated(value, len(arrays)) for name, value in given.items()}
        poses = poses_of(pose_keypoint, image)
        masks, rules = [], []
        for index, array in enumerate(each(arrays)):
            own = {name: value[index] for name, value in given.items()}
            known = Known(
                pose=poses[index],
                parse=own["parse"][0].byte().numpy() if "parse" in own else None,
                approximate=parse is not None and parse.approximate,
                parts=_parts(own["DensePose"]) if "DensePose" in own else None,
            )
            mask, used = agnostic_mask(array, known, options)
            if "mask to add" in own:
                mask |= own["mask to add"][0].cpu().numpy() >= 0.5
            if "mask to remove" in own:
                mask &= own["mask to remove"][0].cpu().numpy() < 0.5
            _check(mask, index)
            masks.append(_blurred(mask, blur))
            rules.append(used)
        agnostic = [refilled(a, m >= 0.5) for a, m in zip(arrays, masks, strict=True)]
        return io.NodeOutput(to_masks(masks), to_images(agnostic), "; ".join(dict.fromkeys(rules)))


def _parts(densepose: Tensor) -> np.ndarray:
    (array,) = to_arrays(densepose.movedim(0, -1)[None])  # C H W -> 1 H W C
    return decode_parts(array)


def _check(mask: np.ndarray, index: int) -> None:
    if not mask.any():
        raise MaskError(
            f"the mask of picture {index + 1} is empty: what is to be removed covers all of it."
        )
    if mask.all():
        raise MaskError(
            f"the mask of picture {index + 1} covers all of it, so nothing of the person would be "
            "left. Add or grow less."
        )


def _blurred(mask: np.ndarray, pixels: int) -> np.ndarray:
    soft = mask.astype(np.float32)
    return cv2.GaussianBlur(soft, (0, 0), pixels / 2) if pixels else soft


class StableVITONGarment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableVITONGarment",
            display_name="StableVITON Garment",
            category=PERSON_CATEGORY,
            description="Cut a garment out of its photo and lay it on white, centred, at the "
            "working size, as StableVITON expects it.",
            search_aliases=["cloth", "remove background", "clothes"],
            inputs=[
                io.Image.Input(
                    "photo", tooltip="The garment lying or hanging flat on a plain ground."
                ),
                io.Int.Input(
                    "width", default=384, min=64, max=4096, step=8,
                    tooltip="Of the working picture, as in StableVITON Frame.",
                ),
                io.Int.Input(
                    "height", default=512, min=64, max=4096, step=8,
                    tooltip="Of the working picture, as in StableVITON Frame.",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="White (1) where the garment is. Without it the built-in network "
                    "(U-2-Net) finds what stands out from the ground.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The garment on white."),
                io.Mask.Output(tooltip="White (1) where the garment is."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, photo: Tensor, width: int, height: int, mask: Tensor | None = None
    ) -> io.NodeOutput:
        check_person_size(height, width)
        arrays = to_arrays(photo)
        masks = None
        if mask is not None:
            batch_size({"photo": len(photo), "mask": len(mask)})
            masks = fitted("mask", mask[:, None], *photo.shape[1:3], "nearest")[:, 0]
            masks = repeated(masks, len(photo)).cpu().float().numpy()
        flat, shapes = [], []
        for index, array in enumerate(each(arrays)):
            own = garment_mask(array) if masks is None else masks[index]
            picture, shape = flat_garment(array, own, height, width)
            flat.append(picture)
            shapes.append(shape)
        return io.NodeOutput(to_images(flat), to_masks(shapes))
