"""LPIPS, with its backbone's weights from a local folder."""

from pathlib import Path
from typing import Literal

import torch
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from ..errors import StableVITONError
from ..model.weight_reader import read_weights

Backbone = Literal["alex", "squeeze", "vgg"]
BACKBONE_FILES: dict[Backbone, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}


def find_backbone(folder: Path, name: str, metric: str) -> Path:
    """The weight file of a metric. StableVITONError where it is missing."""
    path = folder / name
    if not path.is_file():
        raise StableVITONError(
            f"{metric} needs {path}, which is not there. Download {name} from its publisher into "
            f"{folder}."
        )
    return path


def load_lpips(backbone: Backbone, folder: Path) -> LearnedPerceptualImagePatchSimilarity:
    """LPIPS of images B x 3 x H x W in 0..1. folder: has torchvision's weights in `checkpoints`, as
    torch.hub stores them. StableVITONError where they are missing or no weights."""
    path = find_backbone(folder / "checkpoints", BACKBONE_FILES[backbone], f"LPIPS ({backbone})")
    read_weights(path)  # torchvision uses the full unpickler: the file must hold no code
    hub = torch.hub.get_dir()
    torch.hub.set_dir(str(folder))
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=backbone, normalize=True)
    finally:
        torch.hub.set_dir(hub)
