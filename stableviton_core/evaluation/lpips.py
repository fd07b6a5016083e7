"""The perceptual distance LPIPS, with its network from a local folder."""

import pickle
from pathlib import Path
from typing import Literal

import torch
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from ..errors import StableVITONError

Net = Literal["alex", "squeeze", "vgg"]
FILES: dict[Net, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}


def backbone(folder: Path, name: str, what: str) -> Path:
    """The file of a metric's network."""
    path = folder / name
    if not path.is_file():
        raise StableVITONError(
            f"{what} needs {path}, which is not there. Download {name} from its publisher into "
            f"{folder}."
        )
    return path


def lpips(net: Net, folder: Path) -> LearnedPerceptualImagePatchSimilarity:
    """The metric on images N x 3 x H x W in 0..1. folder: holds torchvision's weight file `net`,
    laid as torch's hub does (in `checkpoints`)."""
    path = backbone(folder / "checkpoints", FILES[net], f"LPIPS ({net})")
    try:  # torchvision loads it with the full unpickler, so first make sure that it holds no code
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise StableVITONError(
            f"{path} is no file of weights ({error}). Download again."
        ) from error
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(folder))
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=True)
    finally:
        torch.hub.set_dir(before)
