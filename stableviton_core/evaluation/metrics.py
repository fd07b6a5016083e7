"""SSIM, LPIPS, FID and KID of try-ons, in the protocols of the papers that report them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from cleanfid.fid import frechet_distance, get_files_features, kernel_distance
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from ..errors import StableVITONError
from ..files import replace_atomically
from ..image_tensors import to_channels_first, to_images
from ..images import list_images, read_image
from .lpips import Backbone, find_backbone, load_lpips

INCEPTION = "inception-2015-12-05.pt"
BATCH_SIZE = 16


@dataclass(frozen=True)
class Protocol:
    """How a paper measures. lpips_size: side of the square that images are resized to for LPIPS;
    None: not resized."""

    grey_ssim: bool
    lpips_backbone: Backbone
    lpips_size: int | None

    def describe_ssim(self) -> str:
        return "scikit-image, grey, Gaussian" if self.grey_ssim else "torchmetrics, RGB in 0..1"

    def describe_lpips(self) -> str:
        size = f"{self.lpips_size} x {self.lpips_size}" if self.lpips_size else "full size"
        return f"{self.lpips_backbone}, {size}"


PROTOCOLS = {
    "hr-viton": Protocol(grey_ssim=True, lpips_backbone="alex", lpips_size=128),
    "catvton": Protocol(grey_ssim=False, lpips_backbone="squeeze", lpips_size=None),
    "ladi-viton": Protocol(grey_ssim=False, lpips_backbone="alex", lpips_size=None),
}


@dataclass(frozen=True)
class Score:
    """value: None where the metric's network was not given. method: how it was measured."""

    metric: str
    value: float | None
    method: str


@dataclass(frozen=True)
class Evaluation:
    protocol: str
    paired: bool
    num_images: int
    scores: list[Score]

    def write_json(self, file: Path) -> None:
        with replace_atomically(file) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def format_table(self) -> str:
        """A Markdown table with the protocol above it."""
        kind = "paired" if self.paired else "unpaired"
        lines = [
            f"{self.num_images} images, {kind}, protocol {self.protocol}",
            "| metric | value | measured by |",
            "|---|---|---|",
        ]
        for score in self.scores:
            value = "needs --backbone-dir" if score.value is None else f"{score.value:.4f}"
            lines.append(f"| {score.metric} | {value} | {score.method} |")
        return "\n".join(lines)


def evaluate(
    results: Path, reference: Path, protocol: str, paired: bool, backbone_dir: Path | None
) -> Evaluation:
    """Compare two folders of images.

    paired: every result has a reference of its name and size, and SSIM and LPIPS are measured.
    backbone_dir: has torchvision's weights in `checkpoints` for LPIPS, and clean-fid's
    inception-2015-12-05.pt (a TorchScript program: use its publisher's only); without it only SSIM
    has a value. StableVITONError where images or networks are missing or do not fit.
    """
    settings = PROTOCOLS[protocol]
    result_files, reference_files = _list_by_stem(results), _list_by_stem(reference)
    scores = []
    if paired:
        pairs = _match(result_files, reference_files, reference)
        ssim = _compute_grey_ssim if settings.grey_ssim else _compute_rgb_ssim
        scores.append(Score("SSIM", _average(ssim, pairs, "SSIM"), settings.describe_ssim()))
        value = None
        if backbone_dir:
            network = load_lpips(settings.lpips_backbone, backbone_dir)
            value = _average(
                lambda a, b: _compute_lpips(network, settings.lpips_size, a, b), pairs, "LPIPS"
            )
        scores.append(Score("LPIPS", value, settings.describe_lpips()))
    fid, kid = None, None
    if backbone_dir:
        fid, kid = _measure_fid_kid(
            list(result_files.values()), list(reference_files.values()), backbone_dir
        )
    method = f"clean-fid, {len(reference_files)} reference images"
    scores += [Score("FID", fid, method), Score("KID x 1000", kid, method)]
    return Evaluation(protocol, paired, len(result_files), scores)


def _list_by_stem(folder: Path) -> dict[str, Path]:
    files = list_images(folder)
    by_stem = {path.stem: path for path in files}
    if len(by_stem) < len(files):
        raise StableVITONError(f"{folder} has several images of one name, such as a.jpg and a.png.")
    return by_stem


def _match(
    results: dict[str, Path], references: dict[str, Path], folder: Path
) -> list[tuple[Path, Path]]:
    missing = [name for name in results if name not in references]
    if missing:
        raise StableVITONError(
            f"{len(missing)} of {len(results)} results have no image of their name in {folder}, "
            f"such as {missing[0]}. For results without ground truth use --unpaired."
        )
    return [(path, references[name]) for name, path in results.items()]


def _average(
    metric: Callable[[np.ndarray, np.ndarray], float], pairs: list[tuple[Path, Path]], name: str
) -> float:
    """Mean of a metric over pairs of (result, reference) files."""
    values = []
    for result_file, reference_file in tqdm(pairs, desc=name, mininterval=1):
        result, reference = read_image(result_file), read_image(reference_file)
        if result.shape != reference.shape:
            raise StableVITONError(
                f"{result_file} is {result.shape[1]} x {result.shape[0]}, its reference "
                f"{reference_file} {reference.shape[1]} x {reference.shape[0]}. Bring them to one "
                "size."
            )
        values.append(metric(result, reference))
    return float(np.mean(values))


def _compute_grey_ssim(result: np.ndarray, reference: np.ndarray) -> float:
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (result, reference)]
    return structural_similarity(
        *grey, data_range=255, gaussian_weights=True, use_sample_covariance=False
    )


def _compute_rgb_ssim(result: np.ndarray, reference: np.ndarray) -> float:
    return structural_similarity_index_measure(
        _to_batch(result), _to_batch(reference), data_range=1.0
    ).item()


@torch.no_grad()
def _compute_lpips(
    network: nn.Module, size: int | None, result: np.ndarray, reference: np.ndarray
) -> float:
    if size:  # as torchvision resizes PIL images
        result, reference = (
            np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
            for image in (result, reference)
        )
    return network(_to_batch(result), _to_batch(reference)).item()


def _to_batch(image: np.ndarray) -> Tensor:
    """H x W x 3 uint8 -> 1 x 3 x H x W in 0..1."""
    return to_channels_first(to_images([image]))


def _measure_fid_kid(
    results: list[Path], references: list[Path], backbone_dir: Path
) -> tuple[float, float]:
    """FID and 1000 x KID."""
    find_backbone(backbone_dir, INCEPTION, "FID")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = InceptionV3W(str(backbone_dir), download=False).to(device).eval()
    features = [
        get_files_features(
            [str(file) for file in files],
            model=network,
            num_workers=0,
            batch_size=BATCH_SIZE,
            device=device,
            mode="clean",
            description="FID ",
        )
        for files in (results, references)
    ]
    statistics = [(f.mean(axis=0), np.cov(f, rowvar=False)) for f in features]
    fid = frechet_distance(*statistics[0], *statistics[1])
    state = np.random.get_state()
    np.random.seed(0)  # clean-fid draws its subsets from the global state
    kid = kernel_distance(*features)
    np.random.set_state(state)
    return float(fid), 1000 * float(kid)
