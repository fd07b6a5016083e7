"""SSIM, LPIPS, FID and KID of try-ons, in the protocols of the papers that report them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from cleanfid.fid import frechet_distance, get_files_features, kernel_distance
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from ..errors import StableVITONError
from ..files import replace_atomically
from ..images import list_images
from ..training.dataset import read_image
from .lpips import Net, backbone, lpips

INCEPTION = "inception-2015-12-05.pt"
BATCH = 16


@dataclass(frozen=True)
class Protocol:
    """How a paper measures. size: of the pictures for LPIPS, None as they are."""

    grey_ssim: bool
    net: Net
    size: int | None

    @property
    def ssim(self) -> str:
        return "scikit-image, grey, Gaussian" if self.grey_ssim else "torchmetrics, RGB in 0..1"

    @property
    def lpips(self) -> str:
        return f"{self.net}, {f'{self.size} x {self.size}' if self.size else 'full size'}"


PROTOCOLS = {
    "hr-viton": Protocol(grey_ssim=True, net="alex", size=128),
    "catvton": Protocol(grey_ssim=False, net="squeeze", size=None),
    "ladi-viton": Protocol(grey_ssim=False, net="alex", size=None),
}


@dataclass(frozen=True)
class Figure:
    """A metric's value and how it was measured; no value where its network was not given."""

    metric: str
    value: float | None
    measured: str


@dataclass(frozen=True)
class Figures:
    protocol: str
    paired: bool
    pictures: int
    figures: list[Figure]

    def save(self, file: Path) -> None:
        with replace_atomically(file) as partial_file:
            partial_file.write_text(json.dumps(asdict(self), indent=2) + "\n")


def evaluate(
    results: Path, reference: Path, protocol: str, paired: bool, backbones: Path | None
) -> Figures:
    """Compare two folders of pictures.

    paired: every result has a reference of its name and size, so SSIM and LPIPS are measured.
    backbones: folder with `checkpoints/` (torchvision's weights, for LPIPS) and clean-fid's
    inception-2015-12-05.pt (a TorchScript program: take it from its publishers only); without it
    only SSIM has a value. StableVITONError and StableVITONError where something is missing.
    """
    how = PROTOCOLS[protocol]
    own, real = _pictures(results), _pictures(reference)
    figures = []
    if paired:
        pairs = _matched(own, real, reference)
        figures.append(Figure("SSIM", _mean(_ssim(how), pairs, "SSIM"), how.ssim))
        value = None
        if backbones:
            metric = lpips(how.net, backbones)
            value = _mean(partial(_lpips, metric, how.size), pairs, "LPIPS")
        figures.append(Figure("LPIPS", value, how.lpips))
    distances = _distances(own, real, backbones) if backbones else (None, None)
    measured = f"clean-fid, {len(real)} reference pictures"
    figures.append(Figure("FID", distances[0], measured))
    figures.append(Figure("KID x 1000", distances[1], measured))
    return Figures(protocol, paired, len(own), figures)


def table(figures: Figures) -> str:
    kind = "paired" if figures.paired else "unpaired"
    lines = [
        f"{figures.pictures} pictures, {kind}, protocol {figures.protocol}",
        "| metric | value | measured by |",
        "|---|---|---|",
    ]
    for figure in figures.figures:
        value = "needs --backbone-dir" if figure.value is None else f"{figure.value:.4f}"
        lines.append(f"| {figure.metric} | {value} | {figure.measured} |")
    return "\n".join(lines)


def _pictures(folder: Path) -> dict[str, Path]:
    """By name without the ending."""
    files = list_images(folder)
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        raise StableVITONError(
            f"{folder} has several pictures of one name, such as a.jpg and a.png."
        )
    return found


def _matched(
    own: dict[str, Path], real: dict[str, Path], reference: Path
) -> list[tuple[Path, Path]]:
    missing = [name for name in own if name not in real]
    if missing:
        raise StableVITONError(
            f"{len(missing)} of {len(own)} results have no picture of their name in {reference}, "
            f"such as {missing[0]}. For results without a true picture use --unpaired."
        )
    return [(path, real[name]) for name, path in own.items()]


def _mean(
    distance: Callable[[np.ndarray, np.ndarray], float], pairs: list[tuple[Path, Path]], name: str
) -> float:
    return float(np.mean([distance(*both) for both in _read(pairs, name)]))


def _read(pairs: list[tuple[Path, Path]], name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for own, real in tqdm(pairs, desc=name, mininterval=1):
        result, truth = read_image(own), read_image(real)
        if result.shape != truth.shape:
            raise StableVITONError(
                f"{own} is {result.shape[1]} x {result.shape[0]}, its reference {real} "
                f"{truth.shape[1]} x {truth.shape[0]}. Bring them to one size."
            )
        yield result, truth


def _ssim(how: Protocol) -> Callable[[np.ndarray, np.ndarray], float]:
    return _grey_ssim if how.grey_ssim else _colour_ssim


def _grey_ssim(result: np.ndarray, truth: np.ndarray) -> float:
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (result, truth)]
    return structural_similarity(
        *grey, data_range=255, gaussian_weights=True, use_sample_covariance=False
    )


def _colour_ssim(result: np.ndarray, truth: np.ndarray) -> float:
    return structural_similarity_index_measure(unit(result), unit(truth), data_range=1.0).item()


def unit(image: np.ndarray) -> Tensor:
    """H x W x 3 uint8 -> 1 x 3 x H x W in 0..1."""
    return torch.from_numpy(image).movedim(-1, 0)[None].float() / 255  # H W C -> 1 C H W


@torch.no_grad()
def _lpips(
    metric: torch.nn.Module, size: int | None, result: np.ndarray, truth: np.ndarray
) -> float:
    if size:
        result, truth = (  # as torchvision resizes pictures there
            np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
            for image in (result, truth)
        )
    return metric(unit(result), unit(truth)).item()


def _distances(own: dict[str, Path], real: dict[str, Path], backbones: Path) -> tuple[float, float]:
    """FID and 1000 KID."""
    backbone(backbones, INCEPTION, "FID")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = InceptionV3W(str(backbones), download=False).to(device).eval()
    features = [
        get_files_features(
            [str(path) for path in pictures.values()],
            model=network,
            num_workers=0,
            find_batch_size=BATCH,
            device=device,
            mode="clean",
            description="FID ",
        )
        for pictures in (own, real)
    ]
    statistics = [(f.mean(axis=0), np.cov(f, rowvar=False)) for f in features]
    fid = frechet_distance(*statistics[0], *statistics[1])
    before = np.random.get_state()
    np.random.seed(0)  # clean-fid draws its subsets from the global state
    kid = kernel_distance(*features)
    np.random.set_state(before)
    return float(fid), 1000 * float(kid)
