"""Person networks that users bring: DensePose, SegFormer, OpenPose, on the real host."""

import contextlib
import gc
import hashlib
import importlib
import json
import sys
from pathlib import Path

import comfy.model_management
import numpy as np
import pytest
import torch
from torch import nn
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

from helpers.person_networks import ATR, allow, write_segformer, write_torchscript
from helpers.person_nodes import densepose, parse, pose


def write_densepose(host, name: str, people: int) -> str:
    return write_torchscript(host.base / "models" / "densepose" / name, people).name


def test_a_torchscript_densepose_is_decoded_exactly(host):
    name = write_densepose(host, "two.torchscript", 2)
    image = torch.zeros(1, 120, 128, 3)
    _, numbers, source = densepose(host, image, model=name)
    expected = torch.zeros(120, 128)
    expected[10:110, 60:120] = 3
    assert torch.equal((numbers[0, ..., 0] * 255).round(), expected) and source == name
    near = {"person": "nearest to point", "point_x": 0.2, "point_y": 0.4}
    _, numbers, _ = densepose(host, image, model=name, **near)
    expected = torch.zeros(120, 128)
    expected[20:80, 10:50] = 2
    assert torch.equal((numbers[0, ..., 0] * 255).round(), expected)


def test_a_torchscript_network_is_the_memory_managers(host):
    path = host.base / "models" / "densepose" / write_densepose(host, "one.torchscript", 1)
    networks = host.module("nodes.host.person_networks")

    def loaded() -> list[str]:
        models = [entry.model for entry in comfy.model_management.current_loaded_models]
        return [type(patcher.model).__name__ for patcher in models if patcher is not None]

    with networks.load_densepose(path) as parts:
        assert loaded().count("PersonNetwork") == 1
        parts(np.zeros((120, 128, 3), np.uint8), None)
    del parts
    gc.collect()
    comfy.model_management.cleanup_models_gc()
    assert "PersonNetwork" not in loaded()


def test_a_torchscript_file_needs_its_users_word(host, errors):
    name = write_densepose(host, "mine.torchscript", 1)
    path = host.base / "models" / "densepose" / name
    allowed = path.with_name(name + ".sha256")
    image = torch.zeros(1, 120, 128, 3)
    densepose(host, image, model=name)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(errors, match="mine.torchscript.sha256 allows another file"):
        densepose(host, image, model=name)
    allowed.unlink()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(errors, match=f"nothing allows it.*{digest}.*mine.torchscript.sha256"):
        densepose(host, image, model=name)


def test_code_beside_a_segformer_does_not_run(host, working, errors, tmp_path):
    folder = write_segformer(segformer_folder(host, "coded"))
    created = tmp_path / "created"
    (folder / "code.py").write_text(f"open({str(created)!r}, 'w').close()\n")
    for name in ("config.json", "preprocessor_config.json"):
        entries = json.loads((folder / name).read_text())
        classes = ("AutoImageProcessor", "AutoModelForSemanticSegmentation", "AutoConfig")
        entries["auto_map"] = {key: "code.Anything" for key in classes}
        for key in ("image_processor_type", "feature_extractor_type"):
            entries.pop(key, None)
        (folder / name).write_text(json.dumps(entries))
    with contextlib.suppress(errors):
        parse(host, working, model="coded")
    assert not created.exists()


def test_a_densepose_that_finds_nobody_or_is_damaged(host, errors):
    with pytest.raises(errors, match="found nobody"):
        densepose(
            host, torch.zeros(1, 120, 128, 3), model=write_densepose(host, "no.torchscript", 0)
        )
    damaged = host.base / "models" / "densepose" / "damaged.torchscript"
    damaged.write_bytes(b"PK\3\4 not a network")
    allow(damaged)
    with pytest.raises(errors, match="cannot be loaded as TorchScript"):
        densepose(host, torch.zeros(1, 120, 128, 3), model=damaged.name)
    with pytest.raises(ValueError, match="models/densepose"):
        densepose(host, torch.zeros(1, 120, 128, 3), model="../../secret.torchscript")


FASHN = (
    "background",
    "face",
    "hair",
    "top",
    "dress",
    "skirt",
    "pants",
    "belt",
    "bag",
    "hat",
    "scarf",
    "glasses",
    "arms",
    "hands",
    "legs",
    "feet",
    "torso",
    "jewelry",
)


def segformer_folder(host, name: str) -> Path:
    return host.base / "models" / "segformer" / name


def test_a_segformer_is_read_by_its_labels(host, working):
    folder = write_segformer(segformer_folder(host, "clothes"), ATR)
    found, coloured, region, source = parse(
        host, working, model="clothes", labels="left_arm, upper"
    )
    assert source == "clothes" and not found.approximate
    network = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    processor = SegformerImageProcessor.from_pretrained(folder)
    image = (working[0] * 255).round().byte().numpy()
    with torch.no_grad():
        logits = network(**processor(images=image, return_tensors="pt")).logits
    size = {"size": (512, 384), "mode": "bilinear", "align_corners": False}
    direct = nn.functional.interpolate(logits, **size).argmax(dim=1)[0].numpy()
    names = host.module("stableviton_core.person.labels")
    expected = np.array(names.get_label_ids(*names.ATR))[direct]
    assert len(np.unique(expected)) > 3 and (expected == found.labels[0]).mean() > 0.999
    wanted = np.isin(found.labels, names.get_label_ids("left_arm", "upper"))
    assert np.array_equal(region.numpy() > 0, wanted)


def test_a_segformer_of_unknown_labels_is_refused(host, working, errors):
    write_segformer(segformer_folder(host, "city"), ("road", "car", "sky"))
    with pytest.raises(errors, match="road, car, sky are not those"):
        parse(host, working, model="city")
    empty = host.base / "models" / "segformer" / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    with pytest.raises(errors, match="no SegFormer in transformers' layout"):
        parse(host, working, model="empty")


def test_limbs_without_a_side_get_the_poses(host, working):
    module = host.module("stableviton_core.person.segformer")
    names = module.read_label_names(dict(enumerate(FASHN)))
    person = host.module("stableviton_core.person.bodies").find_bodies(
        (working[0] * 255).byte().numpy()
    )[0]
    found = np.full((512, 384), FASHN.index("arms"))
    labels = module.convert_labels(found, names, person.to_pose())
    cihp = host.module("stableviton_core.person.labels").CIHP
    shoulders = {
        side: person.to_pose()[f"{side}_shoulder"].astype(int) for side in ("left", "right")
    }
    for side, (x, y) in shoulders.items():
        assert cihp[labels[y, x]] == f"{side}_arm"


def test_openpose_without_its_package_says_so(host, working, errors, tmp_path, monkeypatch):
    folder = host.base / "models" / "openpose"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.zeros(1)}, folder / "body_pose_model.pth")
    with pytest.raises(errors, match="needs the Python package controlnet_aux"):
        pose(host, working, model="body_pose_model.pth")
    broken = tmp_path / "controlnet_aux"
    broken.mkdir()
    (broken / "__init__.py").write_text("import os\nos.solutions\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(errors, match="has no attribute 'solutions'"):
        pose(host, working, model="body_pose_model.pth")
    assert pose(host, working)[0][0]["people"], "the built-in pose works all the same"
    assert "controlnet_aux" not in sys.modules


def test_the_models_come_from_comfyuis_folders(host):
    folders = host.module("nodes.host.folders")
    write_densepose(host, "listed.torchscript", 1)
    assert "listed.torchscript" in folders.list_person_models(folders.DENSEPOSE)
    write_segformer(segformer_folder(host, "listed"), ATR)
    assert "listed" in folders.list_person_models(folders.SEGFORMER)
