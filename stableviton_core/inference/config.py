"""The settings of the command `tryon`. Imports nothing heavy, for the command line's help."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ..dataset.pairs import DRESSCODE_FOLDERS
from ..errors import StableVITONError
from ..images import MULTIPLE, WRITING_OPTIONS

Start = Literal["noised", "noise"]
DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_STEPS = 1000  # timesteps of the noise schedule
OF_DATA_SETS = ("unpaired", "repaint", "batch_size", "garment_fit", "format", "shard", "ray")


@dataclass(frozen=True)
class TryOnConfig:
    """Settings of try-ons of a data set (data), or of one photo (person and garment).

    Args:
        checkpoint: StableVITON checkpoint, .ckpt or .safetensors.
        output: Folder for the results of a data set; file for the result of a photo.
        data: Data set folder in the VITON-HD or DressCode layout.
        person: Photo of a person, instead of data.
        garment: Photo of a garment, with person.
        vae: File whose VAE replaces the checkpoint's.
        unpaired: Pair persons with other garments, as in the pairs file, not with their own.
        repaint: Keep the person image outside the mask.
        steps: PLMS steps, 1 to 1000.
        height: Pixels, a multiple of 8.
        width: Pixels, a multiple of 8.
        batch_size: Pairs in one pass of the network.
        start: noised starts from the person image under noise, as released; noise from noise alone.
        guidance: Scale of guidance; 1 is none, as released, and takes half the time.
        seed: The noise of a pair is a function of this seed and of the pair's name.
        device: auto, cpu, cuda or mps.
        dtype: Type of weights and activations; auto is fp16 on a CUDA GPU, else fp32.
        garment_fit: Garments of another aspect are stretched, as released, or padded.
        category: upper, lower or dresses. Of a DressCode data set, all without it; of a photo,
            upper without it.
        format: Type of the result files of a data set.
        shard: Make only part i of n, written i/n, from 1/n to n/n.
        ray: Address of a Ray cluster to run on, a task per GPU; without an address, this machine.
    """

    checkpoint: Path
    output: Path
    data: Path | None = None
    person: Path | None = None
    garment: Path | None = None
    vae: Path | None = None
    unpaired: bool = False
    repaint: bool = False
    steps: int = 50
    height: int = 512
    width: int = 384
    batch_size: int = 1
    start: Start = "noised"
    guidance: float = 1.0
    seed: int = 0
    device: str = "auto"
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    garment_fit: Literal["stretch", "pad"] = "stretch"
    category: str | None = None
    format: Literal["jpg", "png"] = "jpg"
    shard: str = "1/1"
    ray: bool | str = False

    @property
    def on_ray(self) -> bool:
        return self.ray is not False

    @property
    def result_folder(self) -> Path:
        """Folder of a data set's results, as the released script names it."""
        return self.output / ("unpair" if self.unpaired else "pair")

    def list_problems(self) -> list[str]:
        """Everything that is wrong with these settings by themselves, one a line."""
        problems = self._list_source_problems()
        for name in ("height", "width"):
            value = getattr(self, name)
            if value <= 0 or value % MULTIPLE:
                problems.append(f"--{name} must be a positive multiple of {MULTIPLE}, got {value}")
        if not 1 <= self.steps <= MAX_STEPS:
            problems.append(f"--steps must be in 1..{MAX_STEPS}, got {self.steps}")
        if self.batch_size < 1:
            problems.append(f"--batch-size must be at least 1, got {self.batch_size}")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            problems.append(f"--guidance must be a number from 0 on, got {self.guidance}")
        if self.seed < 0:
            problems.append(f"--seed must be 0 or more, got {self.seed}")
        for name, choices in (("device", DEVICES), ("category", (None, *DRESSCODE_FOLDERS))):
            if getattr(self, name) not in choices:
                listed = ", ".join(choice for choice in choices if choice)
                problems.append(f"--{name} is one of {listed}, got {getattr(self, name)!r}")
        if self.on_ray and self.device != "auto":
            problems.append("--ray chooses the device: leave out --device")
        try:
            parse_shard(self.shard)
        except StableVITONError as error:
            problems.append(str(error))
        return problems

    def _list_source_problems(self) -> list[str]:
        photo = [value is not None for value in (self.person, self.garment)]
        if self.data is not None and not any(photo):
            return []
        if self.data is not None or not all(photo):
            return ["give either --data, or --person and --garment"]
        defaults = {field.name: field.default for field in fields(self)}
        problems = [
            f"--{name.replace('_', '-')} is for --data, not for one photo"
            for name in OF_DATA_SETS
            if getattr(self, name) != defaults[name]
        ]
        if self.output.suffix.lower() not in WRITING_OPTIONS:
            endings = ", ".join(WRITING_OPTIONS)
            problems.append(f"--output is the result's file, with one of the endings {endings}")
        return problems


def parse_shard(text: str) -> tuple[int, int]:
    """The text "i/n" -> (i - 1, n). StableVITONError unless 1 <= i <= n."""
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return int(first) - 1, int(second)
    raise StableVITONError(f"--shard is i/n, from 1/n to n/n such as 2/4, got {text!r}")
