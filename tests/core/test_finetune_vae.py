"""The VAE: LDM key names and fine-tuning."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from helpers.training import HEIGHT, WIDTH, write_inputs
from stableviton_core.errors import StableVITONError
from stableviton_core.model.checkpoint import split
from stableviton_core.model.config import AutoencoderConfig
from stableviton_core.model.pretrained import load_model
from stableviton_core.model.vae import build_autoencoder, load_ldm, to_ldm
from stableviton_core.training import finetune_vae as module
from stableviton_core.training.finetune_vae import VaeConfig, VaeLoss, finetune_vae

SMALL = AutoencoderConfig(model_channels=96, channel_mult=(1, 1, 1, 2), num_res_blocks=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, count=2)
    return folder


def config(inputs, output, **changes) -> VaeConfig:
    values = {
        "data": inputs / "data",
        "init": inputs / "tiny.safetensors",
        "output": output,
        "height": HEIGHT,
        "width": WIDTH,
        "max_train_steps": 2,
        "learning_rate": 1e-3,
        "lpips_weight": 0.0,
    }
    return VaeConfig(**(values | changes))


def test_ldm_names_round_trip():
    source, target = build_autoencoder(SMALL), build_autoencoder(SMALL)
    load_ldm(target, to_ldm(source))
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key]), key


def test_the_decoder_learns_and_the_encoder_stays(inputs, tmp_path):
    output = tmp_path / "vae.safetensors"
    finetune_vae(config(inputs, output))
    before = split(load_file(inputs / "tiny.safetensors"))["autoencoder"]
    after = load_file(output)
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert "decoder.conv_out.weight" in moved
    assert all(key.startswith(("decoder.", "post_quant_conv.")) for key in moved)
    model, autoencoder, _ = load_model(inputs / "tiny.safetensors", vae=output)
    assert torch.equal(autoencoder.decoder.conv_out.weight, after["decoder.conv_out.weight"])


def test_it_stops_at_no_number_and_writes_nothing(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(module.F, "l1_loss", lambda a, b: (a - b).mean() * float("nan"))
    with pytest.raises(StableVITONError, match="step 1 is nan. Nothing was written"):
        finetune_vae(config(inputs, tmp_path / "vae.safetensors"))
    assert not list(tmp_path.glob("vae*"))


def test_an_interrupted_run_saves(inputs, tmp_path, monkeypatch):
    output = tmp_path / "vae.safetensors"
    load = module.load_sample
    monkeypatch.setattr(  # in the first step
        module, "load_sample", lambda *args: os.kill(os.getpid(), signal.SIGTERM) or load(*args)
    )
    with pytest.raises(KeyboardInterrupt, match="give it as --init"):
        finetune_vae(config(inputs, output, max_train_steps=1000))
    before = split(load_file(inputs / "tiny.safetensors"))["autoencoder"]
    assert not torch.equal(
        load_file(output)["decoder.conv_out.weight"], before["decoder.conv_out.weight"]
    )


def test_the_result_starts_another_fine_tuning(inputs, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    finetune_vae(config(inputs, first, max_train_steps=1))
    finetune_vae(config(inputs, second, init=first, max_train_steps=1))
    assert load_file(second).keys() == load_file(first).keys()
    with pytest.raises(ValueError, match="must end in .safetensors, got vae.pt"):
        config(inputs, tmp_path / "vae.pt")


def test_the_perceptual_term_needs_its_network(inputs, tmp_path):
    with pytest.raises(StableVITONError, match="vgg16-397923af.pth, or go .*--lpips_weight 0"):
        finetune_vae(config(inputs, tmp_path / "vae.safetensors", lpips_weight=1.0))


def test_the_encoder_is_trained_where_it_is_asked_for(inputs, tmp_path):
    output = tmp_path / "vae.safetensors"
    finetune_vae(config(inputs, output, train_encoder=True, kl_weight=1.0))
    before = split(load_file(inputs / "tiny.safetensors"))["autoencoder"]
    after = load_file(output)
    for key in ("encoder.conv_in.weight", "quant_conv.weight", "decoder.conv_in.weight"):
        assert not torch.equal(before[key], after[key]), key


def test_the_terms_are_weighted_means_by_hand(inputs, tmp_path):
    torch.manual_seed(0)
    autoencoder = build_autoencoder(SMALL).eval()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    settings = config(inputs, tmp_path / "vae.safetensors", l1_weight=3.0, kl_weight=0.5)
    terms = VaeLoss(autoencoder, None, settings)(image)
    assert terms.keys() == {"l1"}
    mean = (autoencoder(image).sample - image).abs().mean()
    assert terms["l1"].item() == pytest.approx(3 * mean.item(), rel=1e-5)
    terms = VaeLoss(autoencoder, None, replace(settings, train_encoder=True))(image)
    posterior = autoencoder.encode(image).latent_dist
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.var.log()).sum() / 2
    assert terms["kl"].item() == pytest.approx(0.5 * kl.item() / (3 * 16 * 16), rel=1e-4)
