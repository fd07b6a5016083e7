"""LoRAs on a STABLEVITON value, in a real ComfyUI."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.golden import REDUCED, error, golden_inputs
from helpers.host import apply, conditioning, make_images, predict_noise
from helpers.loras import write_lora
from helpers.malicious_files import write_malicious_file
from helpers.training import TINY
from stableviton_core.model.convert import convert

STRENGTH = 0.7


@pytest.fixture(scope="module")
def folder(host) -> Path:
    path = host.base / "models" / "loras"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def first(folder) -> str:
    return write_lora(folder / "first.safetensors").name


@pytest.fixture(scope="module")
def second(folder) -> str:
    return write_lora(folder / "second.safetensors", "*attn2*", "*warp_zero*", alpha=2.0).name


@pytest.fixture(scope="module")
def plain(host, loaded) -> Tensor:
    return eps(host, loaded[0], loaded[1])


def with_lora(host, stableviton, name: str, strength: float = STRENGTH):
    (result,) = host.node(
        "StableVITONLora", stableviton=stableviton, lora_name=name, strength=strength
    )
    return result


def run(patched) -> Tensor:
    x, garment, context = golden_inputs("c", 1, 16, 12, REDUCED.context_dim)
    return predict_noise(patched, x, torch.tensor([600]), context, garment)


def eps(host, model, stableviton) -> Tensor:
    return run(apply(host, model, (model, stableviton)))


def load_merged(host, small_checkpoint: str, folder: Path, *loras: str, strength=STRENGTH) -> tuple:
    """The small checkpoint with LoRAs merged into it by the command line's function."""
    checkpoints = host.base / "models" / "stableviton"
    merged = checkpoints / "merged.safetensors"
    files = [folder / name for name in loras]
    convert(checkpoints / small_checkpoint, merged, "fp32", files, strength)
    return host.node("StableVITONLoader", ckpt_name=merged.name, weight_dtype="fp32")


def test_strength_0_is_bit_identical(host, loaded, first, plain):
    assert torch.equal(eps(host, loaded[0], with_lora(host, loaded[1], first, 0.0)), plain)


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_merging_equals_applying(host, loaded, small_checkpoint, folder, first, plain, strength):
    applied = eps(host, loaded[0], with_lora(host, loaded[1], first, strength))
    merged = load_merged(host, small_checkpoint, folder, first, strength=strength)
    assert error(applied, eps(host, *merged[:2])) <= 1e-5
    assert error(applied, plain) > 0.01


def test_two_add_up_in_any_order(host, loaded, small_checkpoint, folder, first, second):
    expected = eps(host, *load_merged(host, small_checkpoint, folder, first, second)[:2])
    for one, two in ((first, second), (second, first)):
        both = with_lora(host, with_lora(host, loaded[1], one), two)
        assert error(eps(host, loaded[0], both), expected) <= 1e-5


def test_opposite_strengths_cancel(host, loaded, first, plain):
    there_and_back = with_lora(host, with_lora(host, loaded[1], first, 0.5), first, -0.5)
    assert error(eps(host, loaded[0], there_and_back), plain) <= 1e-5


def test_the_input_is_unchanged(host, loaded, first, plain):
    before = (loaded[1].adapter, dict(loaded[1].adapter.patches))
    patched = with_lora(host, loaded[1], first)
    changed = eps(host, loaded[0], patched)
    assert (loaded[1].adapter, loaded[1].adapter.patches) == before
    assert torch.equal(eps(host, loaded[0], loaded[1]), plain)
    assert torch.equal(eps(host, loaded[0], patched), changed), "and back again"


def test_the_image_projector_has_updates_on_request(host, loaded, folder, small_checkpoint):
    name = write_lora(folder / "projector.safetensors", "proj_out", "*.mapper.*").name
    patched = with_lora(host, loaded[1], name)
    assert patched.adapter is loaded[1].adapter
    images = make_images()
    plain, _, _ = conditioning(host, loaded, **images)
    changed, _, _ = conditioning(host, (None, patched, *loaded[2:]), **images)
    merged = load_merged(host, small_checkpoint, folder, name)
    expected, _, _ = conditioning(host, (None, merged[1], *loaded[2:]), **images)
    assert error(changed[0][0], expected[0][0]) <= 1e-5
    assert error(changed[0][0], plain[0][0]) > 0.01


@pytest.mark.parametrize("weight_dtype", ["fp16", "fp8_e4m3fn"])
def test_weights_of_lower_precision(host, small_checkpoint, first, weight_dtype):
    model, stableviton, _, _ = host.node(
        "StableVITONLoader", ckpt_name=small_checkpoint, weight_dtype=weight_dtype
    )
    assert eps(host, model, with_lora(host, stableviton, first)).isfinite().all()


def test_two_versions_of_one_network_on_one_model_are_an_error(host, loaded, first, errors):
    patched = apply(host, loaded[0], loaded)
    with pytest.raises(errors, match="already has the networks.*with other LoRAs"):
        apply(host, patched, (loaded[0], with_lora(host, loaded[1], first)))


def test_a_clone_for_another_device_keeps_the_updates(host, loaded, first):
    patched = apply(host, loaded[0], (loaded[0], with_lora(host, loaded[1], first)))
    if not hasattr(patched, "deepclone_multigpu"):
        pytest.skip("this ComfyUI makes no clones for other devices")
    (adapter,) = patched.get_additional_models_with_key("stableviton.0")
    clone = patched.deepclone_multigpu(patched.load_device)
    (copied,) = clone.get_additional_models_with_key("stableviton.0")
    assert copied.model is not adapter.model
    assert copied.patches.keys() == adapter.patches.keys() and copied.patches
    assert torch.equal(run(clone), run(patched))


def test_a_lora_of_another_size(host, loaded, folder):
    name = write_lora(folder / "tiny.safetensors", config=TINY).name
    message = f"{name} was trained on a checkpoint of another size: network.model_channels 32"
    with pytest.raises(ValueError, match=message):
        with_lora(host, loaded[1], name)


def test_a_lora_of_another_model(host, loaded, folder):
    name = "lora_unet_input_blocks_1_1_proj_in"
    weights = {f"{name}.lora_{half}.weight": torch.zeros(4, 4) for half in ("up", "down")}
    save_file(weights, folder / "sd15.safetensors", {"ss_network_dim": "4"})
    with pytest.raises(ValueError, match="sd15.safetensors is not a StableVITON LoRA.*ComfyUI's"):
        with_lora(host, loaded[1], "sd15.safetensors")


def test_code_in_a_file_does_not_run(host, loaded, folder, tmp_path):
    write_malicious_file(folder / "malicious.pt", tmp_path / "created")
    with pytest.raises(ValueError, match="malicious.pt.*wants to run code"):
        with_lora(host, loaded[1], "malicious.pt")
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "nowhere.safetensors"])
def test_a_name_outside_the_folder(host, loaded, name):
    with pytest.raises(ValueError, match="models/loras"):
        with_lora(host, loaded[1], name)
