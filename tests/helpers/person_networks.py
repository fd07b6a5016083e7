"""Small networks in the file formats of the large person networks."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from stableviton_core.files import hash_file
from stableviton_core.person.torchscript import ALLOWED_ENDING

ATR = (
    "Background",
    "Hat",
    "Hair",
    "Sunglasses",
    "Upper-clothes",
    "Skirt",
    "Pants",
    "Dress",
    "Belt",
    "Left-shoe",
    "Right-shoe",
    "Face",
    "Left-leg",
    "Right-leg",
    "Left-arm",
    "Right-arm",
    "Bag",
    "Scarf",
)


class SmallDensePose(nn.Module):
    """One part a person: the torso in the left of two boxes, a hand in the right, larger one."""

    def __init__(self, people: int):
        super().__init__()
        self.people = people
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        assert image.dtype == torch.uint8 and image.dim() == 3
        boxes = torch.tensor([[10.0, 20.0, 50.0, 80.0], [60.0, 10.0, 120.0, 110.0]])
        coarse = torch.zeros(2, 2, 8, 8)
        coarse[:, 1] = self.weight[0]
        fine = torch.zeros(2, 25, 8, 8)
        fine[0, 2] = 1.0
        fine[1, 3] = 1.0
        n = self.people
        return boxes[:n], coarse[:n], fine[:n], fine[:n], fine[:n]


def write_torchscript(path: Path, people: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(torch.jit.script(SmallDensePose(people)), str(path))
    return allow(path)


def allow(path: Path) -> Path:
    """Allow a TorchScript file, as its user does."""
    path.with_name(path.name + ALLOWED_ENDING).write_text(f"{hash_file(path)}  {path.name}\n")
    return path


def write_segformer(folder: Path, labels: tuple[str, ...] = ATR) -> Path:
    """A SegFormer with random weights and these labels."""
    torch.manual_seed(3)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=16,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    network = SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        network.decode_head.classifier.weight.normal_(0, 1)
    network.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 128, "width": 96}).save_pretrained(folder)
    return folder
