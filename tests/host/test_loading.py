"""Files that load, and files that do not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy.clip_model import CLIPVisionModelProjection
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors.torch import save_file

from helpers.checkpoints import SMALL, seeded_weights, write_checkpoint
from helpers.golden import CASES, FOLDER, REDUCED, golden_inputs
from helpers.host import apply, predict_noise
from helpers.malicious_files import write_malicious_file
from stableviton_core.model.checkpoint import UNUSED
from stableviton_core.model.config import ModelConfig
from stableviton_core.model.config_metadata import CONFIG_KEY, config_to_metadata
from stableviton_core.model.expected_shapes import list_autoencoder_shapes, list_clip_shapes


@pytest.fixture(scope="module")
def folder(host) -> Path:
    return host.base / "models" / "stableviton"


def load(host, name: str, weight_dtype: str = "default") -> tuple:
    return host.node("StableVITONLoader", ckpt_name=name, weight_dtype=weight_dtype)


def eps(host, loaded: tuple) -> torch.Tensor:
    batch, rows, columns, steps = CASES["c"]
    x, garment, context = golden_inputs("c", batch, rows, columns, REDUCED.context_dim)
    return predict_noise(apply(host, loaded[0], loaded), x, torch.tensor(steps), context, garment)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 0.02), ("bf16", 0.05)])
def test_half_precision_weights_stay_close(host, loaded, small_checkpoint, dtype, tolerance):
    reference = eps(host, loaded)
    half = eps(host, load(host, small_checkpoint, dtype))
    assert (half - reference).abs().mean() / reference.abs().mean() <= tolerance
    assert not torch.equal(half, reference)


def test_fp8_weights_run(host, small_checkpoint):
    assert eps(host, load(host, small_checkpoint, "fp8_e4m3fn")).isfinite().all()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_files_keep_their_size_in_memory(host, folder, stored):
    name = write_checkpoint(folder / "half.safetensors", stored).name
    dtype = "fp16" if stored == torch.float16 else "bf16"
    model, stableviton, _, _ = load(host, name, dtype)
    for network in (model.model.diffusion_model, stableviton.adapter.model):
        assert {p.dtype for p in network.parameters()} == {stored}


def test_a_lightning_checkpoint_with_all_that_it_carries(host, folder, loaded):
    extras = {key: torch.zeros(1) for key in UNUSED}
    torch.save(
        {
            "state_dict": seeded_weights() | extras,
            "epoch": 3,
            "pytorch-lightning_version": "1.5.0",
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": []}],
            "lr_schedulers": [],
            "callbacks": {"best": np.float64(0.5), "step": np.int64(3)},
        },
        folder / "lightning.ckpt",
    )
    loading = host.module("nodes.host.load_checkpoint")
    weights, metadata = loading.read_weights(folder / "lightning.ckpt")
    assert metadata == {}
    split = host.module("stableviton_core.model.checkpoint").split
    checkpoint = loading.Checkpoint(SMALL, split(weights))
    unet = loading.load_unet(checkpoint, "fp32")
    adapter = loading.load_adapter(checkpoint, torch.float32)
    stableviton = type(loaded[1])(adapter, loaded[1].image_projector, SMALL)
    assert torch.equal(eps(host, (unet, stableviton)), eps(host, loaded))


def test_a_pickle_without_configuration_has_the_released_size(host, folder):
    torch.save({"state_dict": seeded_weights()}, folder / "small.ckpt")
    with pytest.raises(ValueError, match="small.ckpt.*do not fit the network"):
        load(host, "small.ckpt")


def test_the_released_keys_are_the_network(host):
    """All 1957 keys and shapes of a released checkpoint, on no memory."""
    checkpoint = host.module("stableviton_core.model.checkpoint")
    manifest = json.loads((FOLDER / "checkpoint_manifest.json").read_text())
    assert len(manifest) == 1957
    weights = {key: torch.empty(shape, device="meta") for key, shape in manifest.items()}
    components = checkpoint.split(weights)
    assert checkpoint.list_mismatches(ModelConfig(), components) == []
    assert sum(map(len, components.values())) == 1957 - len(UNUSED & set(manifest))


@pytest.mark.parametrize("config", [SMALL, ModelConfig()], ids=["small", "released"])
def test_the_expected_shapes_are_those_of_the_hosts_networks(host, config):
    loading = host.module("nodes.host.load_checkpoint")
    with torch.device("meta"):
        clip = CLIPVisionModelProjection(
            loading.make_clip_dict(config.clip), torch.float32, None, torch.nn
        )
        autoencoder = AutoencoderKL(**loading.make_autoencoder_dict(config.autoencoder))
    for module, shapes in (
        (clip, list_clip_shapes(config.clip)),
        (autoencoder, list_autoencoder_shapes(config.autoencoder)),
    ):
        assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == shapes


def _unet_only(channels: int) -> dict[str, torch.Tensor]:
    key = "model.diffusion_model.input_blocks.0.0.weight"
    return {key: torch.zeros(320, channels, 3, 3), "first_stage_model.x": torch.zeros(1)}


def _without(key: str) -> dict[str, torch.Tensor]:
    weights = seeded_weights()
    del weights[key]
    return weights


def _without_component(prefix: str) -> dict[str, torch.Tensor]:
    return {key: v for key, v in seeded_weights().items() if not key.startswith(prefix)}


def _misshaped() -> dict[str, torch.Tensor]:
    return {
        key: torch.zeros(3) if key.startswith("control_model.") else value
        for key, value in seeded_weights().items()
    }


WRONG_CONTENT = {
    "sd15": (_unet_only(4), "ordinary Stable Diffusion.*4 channels.*CheckpointLoaderSimple"),
    "pbe": (_unet_only(9), "Paint-by-Example.*9 channels"),
    "vae": ({"decoder.up.0.x": torch.zeros(1)}, "VAE on its own.*VAELoader"),
    "other": ({"weight": torch.zeros(1)}, "holds no UNet"),
    "incomplete": (
        _without_component("first_stage_model."),
        "1 of its entries.*no entry of the autoencoder",
    ),
    "missing": (_without("learnable_vector"), "1 of its entries.*missing learnable_vector"),
    "misshaped": (_misshaped(), r"control_model\.\S+ is \(3,\), not .*and \d+ more"),
}


@pytest.mark.parametrize("case", WRONG_CONTENT)
def test_a_file_of_other_content_is_named_with_its_kind_and_the_remedy(host, folder, case):
    weights, message = WRONG_CONTENT[case]
    name = f"{case}.safetensors"
    save_file(weights, folder / name, config_to_metadata(SMALL))
    with pytest.raises(ValueError, match=f"(?s){name} is not a StableVITON checkpoint.*{message}"):
        load(host, name)


def test_at_most_ten_mismatches_are_listed(host, folder):
    save_file(_misshaped(), folder / "many.safetensors", config_to_metadata(SMALL))
    with pytest.raises(ValueError) as caught:
        load(host, "many.safetensors")
    assert str(caught.value).count(", not (") == 10


def test_a_truncated_file(host, folder, small_checkpoint):
    whole = (folder / small_checkpoint).read_bytes()
    for name in ("cut.safetensors", "cut.ckpt"):
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"{name}.*cannot be read.*Download it again"):
            load(host, name)


@pytest.mark.parametrize(
    "name", ["text.ckpt", "text.safetensors", "empty.ckpt", "empty.safetensors"]
)
def test_a_file_that_is_no_checkpoint(host, folder, name):
    (folder / name).write_bytes(b"" if name.startswith("empty") else b"just some text\n" * 10)
    with pytest.raises(ValueError, match=f"{name}.*cannot be read"):
        load(host, name)


def test_code_in_a_pickle_does_not_run(host, folder, tmp_path):
    created = tmp_path / "created"
    write_malicious_file(folder / "malicious.ckpt", created)
    with pytest.raises(ValueError, match="malicious.ckpt.*wants to run code"):
        load(host, "malicious.ckpt")
    assert not created.exists()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "nowhere.ckpt"])
def test_a_name_outside_the_folder(host, name):
    with pytest.raises(ValueError, match="models/stableviton"):
        load(host, name)


def test_damaged_metadata(host, folder):
    save_file(seeded_weights(), folder / "meta.safetensors", {CONFIG_KEY: "{}"})
    with pytest.raises(ValueError, match="does not describe a network.*convert"):
        load(host, "meta.safetensors")


def test_the_folder_is_made_and_listed_with_the_packs_own(host, small_checkpoint):
    assert host.made_folder, "the pack did not make models/stableviton"
    import folder_paths

    paths, extensions = folder_paths.folder_names_and_paths["stableviton"]
    assert str(host.base / "models" / "stableviton") in paths
    assert any(Path(path).name == "demo" for path in paths)
    assert ".safetensors" in extensions and ".ckpt" in extensions
    assert small_checkpoint in folder_paths.get_filename_list("stableviton")


def test_configured_paths_and_extensions_are_kept(host, tmp_path):
    import folder_paths

    before = folder_paths.folder_names_and_paths["stableviton"]
    try:
        folder_paths.folder_names_and_paths["stableviton"] = ([str(tmp_path)], {".mine"})
        host.module("nodes.host.folders").register_folders()
        paths, extensions = folder_paths.folder_names_and_paths["stableviton"]
        assert paths[0] == str(tmp_path) and ".mine" in extensions and ".ckpt" in extensions
    finally:
        folder_paths.folder_names_and_paths["stableviton"] = before


def test_the_images_of_the_demo_are_put_into_the_input_folder(host, tmp_path, caplog):
    import folder_paths

    folder, demo = host.base / "input", host.module("nodes.host.folders").DEMO
    images = {path.name: path for path in demo.iterdir() if path.suffix in (".png", ".jpg")}
    assert {"person.png", "photo.jpg"} < set(images)
    for name, image in images.items():
        assert (folder / f"stableviton_{name}").read_bytes() == image.read_bytes()
    copy = host.module("nodes.host.folders").copy_demo_images
    (folder / "stableviton_mask.png").write_bytes(b"mine")
    (folder / "stableviton_garment.png").unlink()
    copy()
    assert (folder / "stableviton_mask.png").read_bytes() == b"mine", "nothing is overwritten"
    assert (folder / "stableviton_garment.png").is_file()
    assert not list(folder.glob("*.part*"))
    (tmp_path / "file").touch()
    folder_paths.set_input_directory(str(tmp_path / "file" / "input"))
    try:
        copy()
    finally:
        folder_paths.set_input_directory(str(folder))
    assert "the demo's images could not be written" in caplog.text
