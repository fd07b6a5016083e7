"""The settings of the command `evaluate`. Imports nothing heavy, for the command line's help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..dataset.pairs import DRESSCODE_FOLDERS
from ..errors import StableVITONError
from ..images import MULTIPLE

ProtocolName = Literal["hr-viton", "catvton", "ladi-viton"]
DEVICES = ("auto", "cpu", "cuda", "mps")
MIN_SIDE = 16  # pixels; SSIM's window is 11 wide


@dataclass(frozen=True)
class EvaluateConfig:
    """What to measure, and by which protocol.

    Args:
        results: Folder of results, or the folder that holds pair and unpair.
        protocol: Publication whose details of measuring are followed.
        data: Data set the results were made from, in the VITON-HD or DressCode layout: its test
            split gives the real images.
        reference: Folder of real images, instead of data.
        category: upper, lower or dresses of a DressCode data set; all without it.
        unpaired: Persons wear other garments than their own: measure FID and KID only.
        height: Pixels at which images are compared.
        width: Pixels at which images are compared.
        batch_size: Images in one pass of a network.
        device: auto, cpu, cuda or mps.
        backbone_dir: Folder with the weights of the networks of LPIPS, FID and KID.
        score: Checkpoint that made the results: also score how far they can be trusted, which
            compares with no real image. Needs data.
        json: Also write the figures to this file.
    """

    results: Path
    protocol: ProtocolName
    data: Path | None = None
    reference: Path | None = None
    category: str | None = None
    unpaired: bool = False
    height: int = 512
    width: int = 384
    batch_size: int = 16
    device: str = "auto"
    backbone_dir: Path | None = None
    score: Path | None = None
    json: Path | None = None

    def check(self) -> None:
        """StableVITONError lists every setting that is wrong by itself."""
        problems = []
        if (self.data is None) == (self.reference is None):
            problems.append("give either --data or --reference")
        for name in ("height", "width"):
            if getattr(self, name) < MIN_SIDE:
                value = getattr(self, name)
                problems.append(f"--{name} must be at least {MIN_SIDE} pixels, got {value}")
        if self.batch_size < 1:
            problems.append(f"--batch-size must be at least 1, got {self.batch_size}")
        for name, choices in (("device", DEVICES), ("category", (None, *DRESSCODE_FOLDERS))):
            if getattr(self, name) not in choices:
                listed = ", ".join(choice for choice in choices if choice)
                problems.append(f"--{name} is one of {listed}, got {getattr(self, name)!r}")
        if self.category is not None and self.data is None:
            problems.append("--category needs --data")
        if self.score is not None and not self.score.is_file():
            problems.append(f"--score is the file of a checkpoint, and {self.score} is none")
        if self.score is not None and self.data is None:
            problems.append("--score needs --data")
        if self.score is not None and (self.height % MULTIPLE or self.width % MULTIPLE):
            problems.append(
                f"--score needs a --height and a --width that are multiples of {MULTIPLE}, got "
                f"{self.height} and {self.width}"
            )
        if problems:
            raise StableVITONError("\n".join(problems))
