"""Large person networks from the user's files: DensePose, SegFormer, OpenPose. Never downloaded.

A function loads a network and yields what runs it on an image (H x W x 3 uint8 RGB). Where the
network computes is the caller's affair: `on_device` brings it to a device for the time of a block
and yields that device.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import CheckpointError, StableVITONError, first_line
from ..model.weight_reader import UNREADABLE
from .densepose import choose_box, draw_parts
from .pose import Pose, pose_from_points
from .segformer import convert_labels, read_label_names, upsample_labels
from .torchscript import load_torchscript

DensePose = Callable[[np.ndarray, tuple[float, float] | None], np.ndarray]
SegFormer = Callable[[np.ndarray, Pose | None], np.ndarray]
OpenPose = Callable[[np.ndarray], list[Pose]]
OnDevice = Callable[[nn.Module], AbstractContextManager[torch.device]]
ReadWeights = Callable[[Path], Mapping[str, Tensor]]

# Nothing is downloaded, and no code that a folder brings runs.
TRANSFORMERS_OPTIONS = {"local_files_only": True, "trust_remote_code": False}


@contextmanager
def load_densepose(path: Path, on_device: OnDevice) -> Iterator[DensePose]:
    """A function from an image and a point (x, y in pixels, or None) to the part indices of the
    person nearest to the point, or of the largest, H x W uint8. StableVITONError for a file that is
    not allowed (see `torchscript`) or no such network, and for an image without a person."""
    import torchvision  # noqa: F401 -- registers the operators that DensePose's file calls

    network = load_torchscript(path)
    with on_device(network) as device:

        @torch.no_grad()
        def find_parts(image: np.ndarray, point: tuple[float, float] | None) -> np.ndarray:
            pixels = rearrange(torch.from_numpy(image), "h w c -> c h w").to(device)
            try:
                boxes, coarse, fine = network(pixels)[:3]
            except (RuntimeError, TypeError, ValueError) as error:
                raise StableVITONError(
                    f"{path.name} does not work as a DensePose network ({first_line(error)})."
                ) from error
            person = choose_box(boxes.cpu(), point)
            return draw_parts(boxes.cpu(), coarse.cpu(), fine.cpu(), person, *image.shape[:2])

        yield find_parts


@contextmanager
def load_segformer(folder: Path, on_device: OnDevice) -> Iterator[SegFormer]:
    """A function from an image and a pose, which tells left limbs from right ones, to the labels
    H x W uint8 (CIHP ids). StableVITONError for a folder that holds no such model."""
    from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

    try:
        processor: Any = AutoImageProcessor.from_pretrained(folder, **TRANSFORMERS_OPTIONS)
        network = SegformerForSemanticSegmentation.from_pretrained(
            folder, use_safetensors=True, **TRANSFORMERS_OPTIONS
        ).eval()
    except UNREADABLE as error:
        raise StableVITONError(
            f"{folder.name} is no SegFormer in transformers' layout ({first_line(error)}). Its "
            "folder holds config.json, preprocessor_config.json and model.safetensors."
        ) from error
    names = read_label_names(network.config.id2label)
    with on_device(network) as device:

        @torch.no_grad()
        def parse(image: np.ndarray, pose: Pose | None) -> np.ndarray:
            pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
            scores = network(pixel_values=pixels.to(device)).logits[0]
            labels = upsample_labels(scores.float().cpu().numpy(), *image.shape[:2])
            return convert_labels(labels, names, pose)

        yield parse


@contextmanager
def load_openpose(path: Path, read_weights: ReadWeights, on_device: OnDevice) -> Iterator[OpenPose]:
    """A function from an image to everyone's pose, largest first, by controlnet_aux's body network.
    StableVITONError for a missing package and for weights of another network.

    read_weights: the tensors of a file by name, without running code in it.
    """
    try:
        from controlnet_aux.open_pose import util
        from controlnet_aux.open_pose.body import Body
        from controlnet_aux.open_pose.model import bodypose_model
    except (ImportError, AttributeError, RuntimeError) as error:
        raise StableVITONError(
            "OpenPose needs the Python package controlnet_aux, which cannot be imported here "
            f"({first_line(error)}). Install it, or choose the model blazepose."
        ) from error
    body = Body.__new__(Body)  # its __init__ reads the file by itself, and could run code in it
    body.model = bodypose_model().eval()
    try:
        body.model.load_state_dict(util.transfer(body.model, read_weights(path)))
    except (CheckpointError, KeyError, RuntimeError) as error:
        raise StableVITONError(
            f"{path.name} does not hold OpenPose's body network ({first_line(error)}). The file "
            "is body_pose_model.pth of lllyasviel/Annotators."
        ) from error
    with on_device(body.model):

        @torch.no_grad()
        def find_poses(image: np.ndarray) -> list[Pose]:
            people = Body.format_body_result(*body(image[..., ::-1].copy()))  # RGB -> BGR
            points = [
                [(0, 0) if point is None else (point.x, point.y) for point in person.keypoints]
                for person in people
            ]
            return sorted(map(pose_from_points, points), key=Pose.size, reverse=True)

        yield find_poses
