"""Metrics of result folders."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stableviton_core.dataset.pairs import find_target, format_result_name, read_pairs
from stableviton_core.errors import ImageError, StableVITONError
from stableviton_core.evaluation.config import EvaluateConfig
from stableviton_core.evaluation.lpips import BACKBONE_FILES
from stableviton_core.evaluation.metrics import INCEPTION, Evaluation
from stableviton_core.evaluation.metrics import evaluate as evaluate_config
from stableviton_core.synthetic.write_dataset import write_dataset

SIZE = (48, 64)
DEMO = Path(__file__).resolve().parents[2] / "demo" / "stableviton-demo.safetensors"


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


def evaluate(results, reference, protocol, paired, backbones, **changes) -> Evaluation:
    settings = {"height": SIZE[1], "width": SIZE[0], "device": "cpu", "batch_size": 4} | changes
    return evaluate_config(
        EvaluateConfig(
            results,
            protocol,
            reference=reference,
            unpaired=not paired,
            backbone_dir=backbones,
            **settings,
        )
    )


def values(evaluation) -> dict[str, float | None]:
    return {score.metric: score.value for score in evaluation.scores}


def test_equal_images_are_perfect(folders, backbones):
    evaluation = evaluate(folders / "same", folders / "reference", "hr-viton", True, backbones)
    measured = values(evaluation)
    assert measured["SSIM"] == pytest.approx(1) and measured["LPIPS"] == pytest.approx(0, abs=1e-6)
    assert measured["FID"] == pytest.approx(0, abs=1e-3)


def test_other_images_are_worse(folders, backbones, monkeypatch):
    monkeypatch.setattr(
        "stableviton_core.evaluation.metrics._compare_distributions", lambda *_: (0.0, 0.0)
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
            a, b, data_range=255, gaussian_weights=True, use_sample_covariance=False
        )
        for a, b in zip(read("other", "L"), read("reference", "L"), strict=True)
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
    name = "catvton, paired, 6 images, 48 x 64, Lanczos"
    assert f"| SSIM | 1.0000 | {name} | torchmetrics, RGB in 0..1 |" in text
    assert f"| LPIPS | needs --backbone-dir | {name} | squeeze, full size |" in text
    file = tmp_path / "new" / "scores.json"
    evaluation.write_json(file)
    written = json.loads(file.read_text())
    assert written["scores"][0]["value"] == pytest.approx(1.0)
    assert (written["width"], written["filter"], written["num_paired"]) == (48, "Lanczos", 6)


@pytest.mark.parametrize(
    ("protocol", "resampling"),
    [("hr-viton", Image.Resampling.BILINEAR), ("catvton", Image.Resampling.LANCZOS)],
)
def test_sizes_are_brought_to_the_protocols(folders, tmp_path, protocol, resampling):
    """A result that is the reference, reduced by the protocol's filter, is perfect."""
    for file in (folders / "reference").iterdir():
        with Image.open(file) as image:
            image.resize((24, 32), resampling).save(tmp_path / file.name)
    small = {"height": 32, "width": 24}
    for results, reference in (
        (tmp_path, folders / "reference"),
        (folders / "reference", tmp_path),
    ):
        evaluation = evaluate(results, reference, protocol, True, None, **small)
        assert values(evaluation)["SSIM"] == pytest.approx(1, abs=1e-6)
        assert "24 x 32" in evaluation.format_table()
    assert values(evaluate(tmp_path, folders / "reference", protocol, True, None))["SSIM"] < 0.999


def test_the_references_of_fid_are_resized_as_in_the_protocol(
    folders, backbones, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "stableviton_core.evaluation.metrics._compare_distributions",
        lambda results, references: (float(np.abs(results - references).max()), 0.0),
    )
    for file in (folders / "reference").iterdir():
        with Image.open(file) as image:
            image.resize((24, 32), Image.Resampling.LANCZOS).save(tmp_path / file.name)
    small = {"height": 32, "width": 24}
    arguments = (tmp_path, folders / "reference")
    distance = {
        protocol: values(evaluate(*arguments, protocol, False, backbones, **small))["FID"]
        for protocol in ("catvton", "ladi-viton")
    }
    assert distance["catvton"] == 0 and distance["ladi-viton"] > 1e-4


def test_results_in_the_right_garment_score_higher(tmp_path):
    """The truth, and persons in the garment that they wore before."""
    write_dataset(tmp_path / "data", 1, 2, 1, height=128, seed=3, patterns=("checks",))
    for pair in read_pairs(tmp_path / "data", "test", paired=False):
        for folder, source in (("right", find_target(pair)), ("wrong", pair.image)):
            file = tmp_path / folder / format_result_name(pair, ".png")
            file.parent.mkdir(exist_ok=True)
            shutil.copy(source, file)
    scores = {}
    for folder in ("right", "wrong"):
        settings = {"data": tmp_path / "data", "unpaired": True, "score": DEMO, "device": "cpu"}
        config = EvaluateConfig(
            tmp_path / folder, "hr-viton", height=128, width=96, batch_size=2, **settings
        )
        scores[folder] = values(evaluate_config(config))
    assert 0 <= scores["wrong"]["score"] < 0.8 * scores["right"]["score"] <= 1
    assert scores["wrong"]["score: structure"] < scores["right"]["score: structure"]


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
    with pytest.raises(StableVITONError, match="cannot be read as weights"):
        evaluate(*arguments)


def test_distributions_need_two_images(folders, backbones, tmp_path):
    shutil.copy(folders / "same" / "000.png", tmp_path)
    with pytest.raises(StableVITONError, match="at least 2 results.*got 1 and 6"):
        evaluate(tmp_path, folders / "reference", "hr-viton", True, backbones)
    assert values(evaluate(tmp_path, folders / "reference", "hr-viton", True, None))["SSIM"] == 1


def test_results_without_a_reference_are_an_error(folders, tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "stranger.png")
    with pytest.raises(StableVITONError, match="1 of 1 results have no known .* stranger"):
        evaluate(tmp_path, folders / "reference", "catvton", True, None)
    (tmp_path / "stranger.png").rename(tmp_path / "000.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "000.png")
    with pytest.raises(ImageError, match="is 8 x 8 .* not the aspect of 48 x 64"):
        evaluate(tmp_path, folders / "reference", "catvton", True, None)
    with pytest.raises(ImageError, match="has no images"):
        evaluate(folders, folders / "reference", "catvton", True, None)


def test_wrong_settings_come_as_one_list(folders):
    with pytest.raises(StableVITONError) as caught:
        evaluate(
            folders / "same", None, "catvton", True, None, height=0, device="abacus", batch_size=0
        )
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == ["give", "--height", "--batch-size", "--device"]
