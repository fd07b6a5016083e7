"""SSIM, LPIPS, FID and KID of try-ons, in the protocols of the papers that report them."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from cleanfid.fid import frechet_distance, get_batch_features, kernel_distance
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from ..devices import choose_device, list_missing_devices
from ..errors import StableVITONError
from ..files import replace_atomically
from ..image_tensors import to_channels_first, to_images
from ..images import read_image
from .config import EvaluateConfig
from .lpips import find_backbone, load_lpips
from .protocols import PROTOCOLS, Protocol, read_resized, resize
from .results import (
    Result,
    is_paired,
    list_results,
    match_references,
    read_reference,
    read_test_split,
    resolve_results,
)
from .trust import score_results

INCEPTION = "inception-2015-12-05.pt"
READERS = 4  # threads that decode images
Reader = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Score:
    """value: None where the metric's network was not given. protocol and method: how it was
    measured."""

    metric: str
    value: float | None
    protocol: str
    method: str


@dataclass(frozen=True)
class Evaluation:
    """Figures with all that they depend on. height and width: pixels at which images are compared;
    filter: that brought them there. num_paired: results that show a person in the own garment."""

    protocol: str
    paired: bool
    num_images: int
    num_paired: int
    num_references: int
    height: int
    width: int
    filter: str
    results: str
    reference: str
    scores: list[Score]

    def write_json(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(file) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def format_table(self) -> str:
        """A Markdown table with the protocol in every line."""
        kind = "paired" if self.paired else "unpaired"
        lines = [
            f"{self.num_images} images ({self.num_paired} in the person's own garment), {kind}, "
            f"protocol {self.protocol}, {self.num_references} reference images",
            "",
            "| metric | value | protocol | measured by |",
            "|---|---|---|---|",
        ]
        for score in self.scores:
            value = "needs --backbone-dir" if score.value is None else f"{score.value:.4f}"
            lines.append(f"| {score.metric} | {value} | {score.protocol} | {score.method} |")
        return "\n".join(lines)


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Compare results with the real images of a test split.

    Without `backbone_dir` only SSIM has a value. It has torchvision's weights in `checkpoints` for
    LPIPS, and clean-fid's inception-2015-12-05.pt (a TorchScript program: use its publisher's
    only). StableVITONError where settings, images or networks are wrong, missing or do not fit.
    """
    config.check()
    device = choose_device(config.device)
    if problems := list_missing_devices(device):
        raise StableVITONError("\n".join(problems))
    protocol, paired = PROTOCOLS[config.protocol], not config.unpaired
    if config.data is not None:
        reference = read_test_split(config.data, config.category)
    else:
        assert config.reference is not None
        reference = read_reference(config.reference)
    results = resolve_results(list_results(config.results, paired), reference)
    real_files = list(reference.images.values())
    if config.backbone_dir is not None and min(len(results), len(real_files)) < 2:
        raise StableVITONError(
            "FID and KID compare the spread of two sets of images: give at least 2 results and 2 "
            f"real images, got {len(results)} and {len(real_files)}."
        )
    num_paired = sum(is_paired(result, reference) for result in results)
    size = f"{config.width} x {config.height}, {protocol.filter}"
    kind = "paired" if paired else "unpaired"
    name = f"{config.protocol}, {kind}, {len(results)} images, {size}"

    def read(file: Path) -> np.ndarray:
        return read_resized(file, config.height, config.width, protocol.filter)

    scores = []
    if paired:
        pairs = [(result.file, real) for result, real in match_references(results, reference)]
        ssim, lpips = _compare_pairs(pairs, read, protocol, config, device)
        scores.append(Score("SSIM", ssim, name, protocol.describe_ssim()))
        scores.append(Score("LPIPS", lpips, name, protocol.describe_lpips()))
    fid, kid = None, None
    if config.backbone_dir is not None:
        network = _load_inception(config.backbone_dir, device)
        read_real = read if protocol.resize_fid_references else read_image
        fid, kid = _compare_distributions(
            *(
                _compute_features(network, files, reader, config.batch_size, device)
                for files, reader in (
                    ([result.file for result in results], read),
                    (real_files, read_real),
                )
            )
        )
    method = f"{protocol.describe_fid()}, {len(real_files)} reference images"
    scores += [Score("FID", fid, name, method), Score("KID x 1000", kid, name, method)]
    if config.score is not None:
        scores += _average_scores(results, config, name)
    return Evaluation(
        protocol=config.protocol,
        paired=paired,
        num_images=len(results),
        num_paired=num_paired,
        num_references=len(real_files),
        height=config.height,
        width=config.width,
        filter=protocol.filter,
        results=str(config.results),
        reference=str(config.data or config.reference),
        scores=scores,
    )


def _average_scores(results: Sequence[Result], config: EvaluateConfig, name: str) -> list[Score]:
    """The mean over results of the score without real images, and of its parts."""
    assert config.score is not None
    each = score_results(results, config)
    method = f"attention of {config.score.name}, {len(each)} results"
    means = {"score": float(np.mean([score.total for score in each]))}
    for field in fields(each[0]):
        means[f"score: {field.name}"] = float(np.mean([getattr(s, field.name) for s in each]))
    return [Score(metric, mean, name, method) for metric, mean in means.items()]


def _read_batches(
    files: Sequence[Path], read: Reader, batch_size: int, name: str
) -> Iterator[list[np.ndarray]]:
    """Decoded images in batches, with a progress bar."""
    with ThreadPoolExecutor(READERS) as pool, tqdm(total=len(files), desc=name) as progress:
        for start in range(0, len(files), batch_size):
            batch = list(pool.map(read, files[start : start + batch_size]))
            yield batch
            progress.update(len(batch))


def _compare_pairs(
    pairs: Sequence[tuple[Path, Path]],
    read: Reader,
    protocol: Protocol,
    config: EvaluateConfig,
    device: torch.device,
) -> tuple[float, float | None]:
    """Mean SSIM and LPIPS over pairs of (result, reference) files."""
    network = None
    if config.backbone_dir is not None:
        network = load_lpips(protocol.lpips_backbone, config.backbone_dir).to(device)
    compute_ssim = _compute_grey_ssim if protocol.grey_ssim else _compute_rgb_ssim
    ssim, lpips = 0.0, 0.0
    files = [file for pair in pairs for file in pair]
    for images in _read_batches(files, read, 2 * config.batch_size, "SSIM, LPIPS"):
        results, references = images[::2], images[1::2]
        ssim += compute_ssim(results, references, device)
        if network is not None:
            lpips += _compute_lpips(network, protocol.lpips_size, results, references, device)
    return ssim / len(pairs), None if network is None else lpips / len(pairs)


def _compute_grey_ssim(
    results: Sequence[np.ndarray], references: Sequence[np.ndarray], device: torch.device
) -> float:
    """Sum over a batch, as of the other functions beside it."""
    return sum(
        structural_similarity(
            *(np.asarray(Image.fromarray(image).convert("L")) for image in pair),
            data_range=255,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for pair in zip(results, references, strict=True)
    )


def _compute_rgb_ssim(
    results: Sequence[np.ndarray], references: Sequence[np.ndarray], device: torch.device
) -> float:
    pair = (_to_batch(images, device) for images in (results, references))
    value = structural_similarity_index_measure(*pair, data_range=1.0, reduction="sum")
    assert isinstance(value, Tensor)
    return value.item()


@torch.no_grad()
def _compute_lpips(
    network: nn.Module,
    size: int | None,
    results: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    device: torch.device,
) -> float:
    if size:  # as torchvision resizes PIL images
        results, references = (
            [resize(image, size, size, "bilinear") for image in images]
            for images in (results, references)
        )
    value = network(_to_batch(results, device), _to_batch(references, device))
    return value.item() * len(results)


def _to_batch(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Arrays H x W x 3 uint8 -> B x 3 x H x W in 0..1."""
    return to_channels_first(to_images(images)).to(device)


def _load_inception(backbone_dir: Path, device: torch.device) -> nn.Module:
    find_backbone(backbone_dir, INCEPTION, "FID")
    return InceptionV3W(str(backbone_dir), download=False).to(device).eval()


def _compute_features(
    network: nn.Module, files: Sequence[Path], read: Reader, batch_size: int, device: torch.device
) -> np.ndarray:
    """Inception's features, N x 2048, of images brought to 299 x 299 as clean-fid does."""
    resize_clean = build_resizer("clean")

    def read_small(file: Path) -> np.ndarray:
        return resize_clean(read(file))

    features = []
    for images in _read_batches(files, read_small, batch_size, "FID, KID"):
        batch = torch.from_numpy(np.stack(images)).movedim(-1, 1).float()
        features.append(get_batch_features(batch, network, device))
    return np.concatenate(features)


def _compare_distributions(results: np.ndarray, references: np.ndarray) -> tuple[float, float]:
    """FID and 1000 x KID of features N x 2048."""
    statistics = [(f.mean(axis=0), np.cov(f, rowvar=False)) for f in (results, references)]
    fid = frechet_distance(*statistics[0], *statistics[1])
    state = np.random.get_state()
    np.random.seed(0)  # clean-fid draws its subsets from the global state
    kid = kernel_distance(results, references)
    np.random.set_state(state)
    return float(fid), 1000 * float(kid)
