"""Metrics of result folders."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stableviton_core.errors import ImageError, StableVITONError
from stableviton_core.evaluation.lpips import BACKBONE_FILES
from stableviton_core.evaluation.metrics import INCEPTION, evaluate

SIZE = (48, 64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Smooth images, and the same a little brighter."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("reference", "same", "other"):
        (root / name).mkdir()
    for index in range(6):
        small = rng.integers(0, 220, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC)
        for name, shown in (("reference", image), ("same", image), ("other", image // 2 + 60)):
            Image.fromarray(shown).save(root / name / f"{index:03d}.png")
    return root


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 4 * 4, 2048)

    def forward(self, x):
        pooled = nn.functional.adaptive_avg_pool2d(x, (4, 4))
        return self.linear(pooled.flatten(1))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x):
        return self.layers(x)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Networks of the real classes with random weights."""
    from torchvision.models import alexnet, squeezenet1_1

    folder = tmp_path_factory.mktemp("backbones")
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    for name, build in (("alex", alexnet), ("squeeze", squeezenet1_1)):
        torch.save(build().state_dict(), folder / "checkpoints" / BACKBONE_FILES[name])
    torch.jit.script(Inception()).save(str(folder / INCEPTION))
    return folder


def values(evaluation) -> dict[str, float | None]:
    return {score.metric: score.value for score in evaluation.scores}


def test_equal_images_are_perfect(folders, backbones):
    evaluation = evaluate(folders / "same", folders / "reference", "hr-viton", True, backbones)
    measured = values(evaluation)
    assert measured["SSIM"] == pytest.approx(1) and measured["LPIPS"] == pytest.approx(0, abs=1e-6)
    assert measured["FID"] == pytest.approx(0, abs=1e-3)


def test_other_images_are_worse(folders, backbones, monkeypatch):
    monkeypatch.setattr(
        "stableviton_core.evaluation.metrics._measure_fid_kid", lambda *_: (0.0, 0.0)
    )
    lpips = set()
    for protocol in ("hr-viton", "catvton", "ladi-viton"):
        measured = values(
            evaluate(folders / "other", folders / "reference", protocol, True, backbones)
        )
        assert measured["SSIM"] < 0.99 and measured["LPIPS"] > 1e-4
        lpips.add(measured["LPIPS"])
    assert len(lpips) == 3, "the protocols differ in network and size"


def test_ssim_is_that_of_the_protocol(folders):
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import structural_similarity_index_measure

    def read(name, mode):
        paths = sorted((folders / name).iterdir())
        return [np.asarray(Image.open(path).convert(mode)) for path in paths]

    grey = [
        structural_similarity(
            cv2.cvtColor(a, cv2.COLOR_RGB2GRAY),
            cv2.cvtColor(b, cv2.COLOR_RGB2GRAY),
            data_range=255,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for a, b in zip(read("other", "RGB"), read("reference", "RGB"), strict=True)
    ]
    colour = structural_similarity_index_measure(
        *(
            torch.from_numpy(np.stack(read(name, "RGB"))).movedim(-1, 1) / 255
            for name in ("other", "reference")
        ),
        data_range=1.0,
    ).item()
    for protocol, expected in (("hr-viton", np.mean(grey)), ("ladi-viton", colour)):
        evaluation = evaluate(folders / "other", folders / "reference", protocol, True, None)
        assert values(evaluation)["SSIM"] == pytest.approx(expected, abs=1e-5)
    assert np.mean(grey) != pytest.approx(colour, abs=1e-3)


def test_without_networks_only_ssim_has_a_value(folders, tmp_path):
    evaluation = evaluate(folders / "same", folders / "reference", "catvton", True, None)
    text = evaluation.format_table()
    assert "protocol catvton" in text and "| SSIM | 1.0000 | torchmetrics, RGB in 0..1 |" in text
    assert "| LPIPS | needs --backbone-dir | squeeze, full size |" in text
    evaluation.write_json(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["scores"][0]["value"] == 1.0


def test_unpaired_results_have_no_pairwise_scores(folders, backbones):
    evaluation = evaluate(folders / "other", folders / "reference", "ladi-viton", False, backbones)
    assert list(values(evaluation)) == ["FID", "KID x 1000"]
    assert values(evaluation)["FID"] > 1
    assert "unpaired" in evaluation.format_table()


def test_a_missing_or_wrong_network_is_an_error(folders, tmp_path):
    arguments = (folders / "same", folders / "reference", "hr-viton", True, tmp_path)
    with pytest.raises(StableVITONError, match="LPIPS .alex. needs .*alexnet-owt-7be5be79.pth"):
        evaluate(*arguments)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"a": print}, tmp_path / "checkpoints" / BACKBONE_FILES["alex"])
    with pytest.raises(StableVITONError, match="is not a weight file"):
        evaluate(*arguments)


def test_results_without_a_reference_are_an_error(folders, tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "stranger.png")
    with pytest.raises(StableVITONError, match="1 of 1 results have no image .* stranger"):
        evaluate(tmp_path, folders / "reference", "catvton", True, None)
    (tmp_path / "stranger.png").rename(tmp_path / "000.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "000.png")
    with pytest.raises(StableVITONError, match="is 8 x 8, its reference .* 48 x 64"):
        evaluate(tmp_path, folders / "reference", "catvton", True, None)
    with pytest.raises(ImageError, match="has no images"):
        evaluate(folders, folders / "reference", "catvton", True, None)
