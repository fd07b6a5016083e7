"""A start for training from Paint-by-Example and from Stable Diffusion."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.checkpoints import seeded_weights, write_checkpoint
from helpers.training import TINY
from stableviton_core.errors import CheckpointError
from stableviton_core.model.pretrained import load_model
from stableviton_core.training.initialization import (
    INPUT_CONVOLUTION_KEY,
    initialize_checkpoint,
    load_initial_model,
    widen_input_convolution,
)

KEY = "model.diffusion_model." + INPUT_CONVOLUTION_KEY


def source_weights(channels: int) -> dict[str, torch.Tensor]:
    """A checkpoint without the try-on components."""
    weights = seeded_weights(TINY)
    ours = ("control_model.", "model.diffusion_model.warp_")
    kept = {key: value for key, value in weights.items() if not key.startswith(ours)}
    kept[KEY] = kept[KEY][:, :channels].contiguous()
    if channels == 4:  # Stable Diffusion has a text tower and no image projector
        drop = ("cond_stage_model.", "proj_out.", "learnable_vector")
        kept = {key: value for key, value in kept.items() if not key.startswith(drop)}
        kept["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.ones(8)
    return kept


def clip_file(path):
    prefix = "cond_stage_model.transformer."
    weights = seeded_weights(TINY)
    tower = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    save_file(tower | {"text_model.embeddings.x": torch.ones(2)}, path)
    return path


def test_new_channels_come_last_and_are_zero():
    entry = torch.randn(8, 9, 3, 3)
    wide = widen_input_convolution(entry, 13)
    assert torch.equal(wide[:, :9], entry) and not wide[:, 9:].any() and wide.shape[1] == 13


@torch.no_grad()
def test_paint_by_example_becomes_a_start_without_influence(tmp_path):
    source, output = tmp_path / "pbe.safetensors", tmp_path / "start.safetensors"
    save_file(source_weights(9), source)
    fresh = initialize_checkpoint(source, output, dtype="fp32", config=TINY)
    assert len(fresh) == 2 and "spatial encoder" in fresh[0] and "zero cross" in fresh[1]
    model, _, license = load_model(output)
    assert license == "CreativeML OpenRAIL-M"
    model.eval()
    x, t = torch.randn(2, 13, 8, 6), torch.tensor([500, 20])
    context = model.image_projector.learnable_vector.expand(2, -1, -1)
    eps = model.network(x, t, context, torch.randn(2, 4, 8, 6))
    assert torch.equal(eps, model.network.unet(x, t, context))
    x[:, 9:] = 5
    assert torch.equal(eps, model.network.unet(x, t, context)), "DensePose has no say yet"
    expected = seeded_weights(TINY)
    after = load_file(output)
    for key in ("proj_out.weight", "cond_stage_model.mapper.resblocks.0.mlp.c_fc.weight"):
        assert torch.equal(after[key], expected[key])
    encoder = "control_model.input_blocks.1.0.in_layers.2.weight"
    unet = encoder.replace("control_model", "model.diffusion_model")
    assert torch.equal(after[encoder], expected[unet])


def test_stable_diffusion_needs_a_clip_vision_tower(tmp_path):
    source, output = tmp_path / "sd.safetensors", tmp_path / "start.safetensors"
    save_file(source_weights(4), source)
    with pytest.raises(CheckpointError, match="Name one with --clip"):
        initialize_checkpoint(source, output, config=TINY)
    assert not output.exists()
    fresh = initialize_checkpoint(
        source, output, clip_file(tmp_path / "clip.safetensors"), config=TINY
    )
    assert len(fresh) == 3 and "image projector" in fresh[2]
    model, _, _ = load_model(output)
    pooled = torch.randn(2, 64)
    embedded = model.image_projector.embed(pooled)[:, 0]
    expected = torch.nn.functional.layer_norm(pooled, (64,))
    assert torch.allclose(embedded, expected, atol=1e-5), "the new transformer passes all on"


ENCODER, CROSS_ATTENTION = "control_model.", "model.diffusion_model.warp_"


@torch.no_grad()
@pytest.mark.parametrize(
    "missing", [(), (ENCODER,), (CROSS_ATTENTION,), (ENCODER, CROSS_ATTENTION)]
)
def test_the_released_start_keeps_what_it_has(tmp_path, missing):
    """VITONHD_PBE_pose.ckpt: a Lightning file with 13 input channels."""
    source, output = tmp_path / "pose.ckpt", tmp_path / "start.safetensors"
    weights = seeded_weights(TINY)
    kept = {
        key: value for key, value in weights.items() if not (missing and key.startswith(missing))
    }
    torch.save({"state_dict": kept, "epoch": 3}, source)
    fresh = initialize_checkpoint(source, output, dtype="fp32", config=TINY)
    assert len(fresh) == len(missing)
    after = load_file(output)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], value) for key, value in kept.items())
    model, _, license = load_model(output)
    assert license == "CC BY-NC-SA 4.0", "of the release, not of Paint-by-Example"
    if missing:
        x, t = torch.randn(1, 13, 8, 6), torch.tensor([500])
        context = model.image_projector.learnable_vector.expand(1, -1, -1)
        eps = model.network(x, t, context, torch.randn(1, 4, 8, 6))
        same = torch.equal(eps, model.network.unet(x, t, context))
        assert same == (CROSS_ATTENTION in missing), "zero convolutions hide a new encoder only"
    if ENCODER in missing:
        key = "input_blocks.1.0.in_layers.2.weight"
        assert torch.equal(after[ENCODER + key], weights["model.diffusion_model." + key])
        assert not after[ENCODER + "cond_first_block.0.weight"].any()


def test_an_encoder_without_a_garment_input_gets_a_zero_one(tmp_path):
    source, output = tmp_path / "pose.safetensors", tmp_path / "start.safetensors"
    weights, prefix = seeded_weights(TINY), ENCODER + "cond_first_block."
    save_file({k: v for k, v in weights.items() if not k.startswith(prefix)}, source)
    assert initialize_checkpoint(source, output, dtype="fp32", config=TINY) == []
    after = load_file(output)
    assert not after[prefix + "0.weight"].any()
    save_file({k: v for k, v in weights.items() if "control_model.middle" not in k}, source)
    with pytest.raises(CheckpointError, match="encoder is incomplete"):
        initialize_checkpoint(source, output, config=TINY)


def test_training_takes_a_complete_start_and_names_init_for_others(tmp_path):
    complete = write_checkpoint(tmp_path / "pose.safetensors", config=TINY)
    model, _, _ = load_initial_model(complete, None)
    assert model.config == TINY
    for channels in (4, 9, 13):
        source = tmp_path / f"{channels}.safetensors"
        save_file(source_weights(channels), source)
        with pytest.raises(CheckpointError, match=f"stableviton_core init {channels}.safetensors"):
            load_initial_model(source, None)
    for files in ((tmp_path / "none.safetensors", None), (complete, tmp_path / "none.safetensors")):
        with pytest.raises(CheckpointError, match="is not a file") as caught:
            load_initial_model(*files)
        assert "init" not in str(caught.value).replace(str(tmp_path), "")


def test_other_files_are_errors(tmp_path):
    source = tmp_path / "vae.safetensors"
    save_file({"decoder.up.0.x": torch.ones(1)}, source)
    with pytest.raises(CheckpointError, match="has no UNet. Expected a Stable Diffusion 1.5 or"):
        initialize_checkpoint(source, tmp_path / "start.safetensors")
