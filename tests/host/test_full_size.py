"""The released size inside ComfyUI (slow: tens of gigabytes of disk and memory, minutes)."""

import json
from pathlib import Path

import comfy.model_management
import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file

from helpers.golden import FOLDER, error, fill, golden_inputs, read_golden, weight
from helpers.host import apply, predict_noise
from stableviton_core.model.checkpoint import UNUSED
from stableviton_core.model.convert import convert
from stableviton_core.model.image_projector import preprocess_for_clip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def full(host) -> tuple:
    """MODEL, STABLEVITON, CLIP_VISION, VAE of golden weights under all released keys."""
    manifest = json.loads((FOLDER / "checkpoint_manifest.json").read_text())
    folder = Path(host.base) / "models" / "stableviton"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: weight(k, tuple(s)) for k, s in manifest.items() if k not in UNUSED}
    save_file(weights, folder / "full.safetensors")
    del weights
    return host.node("StableVITONLoader", ckpt_name="full.safetensors", weight_dtype="fp32")


def test_eps_is_the_authors(host, full):
    x, garment, context = golden_inputs("full", 1, 64, 48, 768)
    eps = predict_noise(apply(host, full[0], full), x, torch.tensor([981]), context, garment)
    assert error(eps, read_golden("full")["full/eps"]) <= 1e-4


@torch.inference_mode()
def test_image_projector_is_the_authors(full):
    _, stableviton, clip_vision, _ = full
    cloth, golden = fill("input/cloth", (1, 3, 512, 384)).clamp(-1, 1), read_golden("full")
    pixels = preprocess_for_clip(cloth)
    assert error(pixels[:, :, ::4, ::4], golden["clip/pixels"]) <= 1e-4
    comfy.model_management.load_models_gpu([clip_vision.patcher, stableviton.image_projector])
    _, _, pooled = clip_vision.model.vision_model(pixels)
    projector = stableviton.image_projector.model
    assert error(projector.embed(pooled), golden["clip/embedding"]) <= 1e-4
    assert error(projector(pooled), golden["clip/context"]) <= 1e-4


@torch.inference_mode()
def test_vae_is_the_authors(full):
    cloth = fill("input/cloth", (1, 3, 512, 384)).clamp(-1, 1)
    mode = full[3].encode(rearrange((cloth + 1) / 2, "b c h w -> b h w c"))
    assert error(mode, read_golden("full")["vae/cloth_mode"]) <= 1e-4


@torch.inference_mode()
def test_a_converted_vae_loads_with_the_hosts_loader(host, full, tmp_path):
    weights = {
        key: weight(f"first_stage_model.{key}", tuple(value.shape))
        for key, value in full[3].first_stage_model.state_dict().items()
    }
    source = tmp_path / "VITONHD_VAE_finetuning.ckpt"
    torch.save({"state_dict": weights | {"loss.logvar": torch.zeros(1)}}, source)
    folder = Path(host.base) / "models" / "vae"
    folder.mkdir(parents=True, exist_ok=True)
    convert(source, folder / "vitonhd_vae.safetensors", "fp32")
    (vae,) = host.node("VAELoader", vae_name="vitonhd_vae.safetensors")
    cloth = fill("input/cloth", (1, 3, 512, 384)).clamp(-1, 1)
    mode = vae.encode(rearrange((cloth + 1) / 2, "b c h w -> b h w c"))
    assert error(mode, read_golden("full")["vae/cloth_mode"]) <= 1e-4
