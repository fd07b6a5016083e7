"""The method on a GPU, without one: what lies there stays there, nothing is mixed or waited for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.fake_gpu import GPU, built_on_gpu, empty, fake_gpu
from helpers.golden import REDUCED
from helpers.training import TINY
from stableviton_core.image_tensors import (
    make_agnostic_image,
    make_keep_mask,
    pad_garment,
    paste_back,
    resize_keep_mask,
    resize_mask_to_person,
    to_signed,
)
from stableviton_core.inference.encoding import Latents
from stableviton_core.inference.sampling import sample_tryon
from stableviton_core.model.attention_recorder import AttentionRecorder
from stableviton_core.model.tryon_model import TryOnModel
from stableviton_core.model.zero_cross_attention import TryOnNetwork
from stableviton_core.person.crop import crop, find_crop_region
from stableviton_core.person.stitch import StitchOptions, stitch
from stableviton_core.training.config import TrainConfig
from stableviton_core.training.losses import TimestepsAndNoise, compute_loss, make_model_inputs

HALF = torch.float16


def make_latents(batch: int, width: int, dtype: torch.dtype) -> Latents:
    names = ("person", "agnostic", "densepose", "garment")
    latents = {name: empty(batch, 4, 8, 6, dtype=dtype) for name in names}
    keep, embedding = empty(batch, 1, 8, 6, dtype=dtype), empty(batch, 1, width, dtype=dtype)
    return Latents(**latents, keep=keep, embedding=embedding)


def test_a_mix_of_devices_is_seen():
    with fake_gpu(), pytest.raises(RuntimeError, match="cpu"):
        empty(2) + torch.ones(2)


def test_a_read_a_copy_and_a_float64_are_seen():
    with fake_gpu([3.0]) as recorded:
        assert empty(1).item() == 3.0
        assert empty(2).cpu().device.type == "cpu"
        torch.ones(2).to(GPU)
        empty(2).double()
    assert (len(recorded.reads), len(recorded.copies), len(recorded.float64)) == (1, 2, 1)


@torch.no_grad()
def test_a_pass_of_the_network():
    with fake_gpu() as recorded:
        with built_on_gpu(HALF):
            network = TryOnNetwork(REDUCED)
        inputs = (empty(2, 13, 16, 12, dtype=HALF), empty(2, dtype=torch.int64))
        inputs += (empty(2, 1, REDUCED.context_dim, dtype=HALF), empty(2, 4, 16, 12, dtype=HALF))
        noise = network(*inputs)
        assert (noise.device, noise.dtype, tuple(noise.shape)) == (GPU, HALF, (2, 4, 16, 12))
    assert (recorded.reads, recorded.copies, recorded.float64) == ([], [], [])


@torch.no_grad()
def test_sampling_copies_once_and_not_in_its_loop():
    copies = []
    for steps in (2, 6):
        with fake_gpu() as recorded:
            with built_on_gpu(HALF):
                model = TryOnModel(TINY)
            batch, noise = make_latents(2, TINY.clip.hidden_size, HALF), empty(2, 4, 8, 6)
            recorded.copies.clear()
            sampled = sample_tryon(model, batch, noise, steps, guidance=2.0)
            assert (sampled.device, sampled.dtype) == (GPU, torch.float32)
        copies.append(recorded.copies)
        assert (recorded.reads, recorded.float64) == ([], [])
    assert copies[0] == copies[1]


def test_images_and_masks():
    finite, binary = [True] * 3, [True]  # of what comes in, and the mask to stitch: what is read
    with fake_gpu(finite + binary) as recorded:
        person, mask = empty(2, 64, 48, 3), empty(2, 64, 48)
        keep = make_keep_mask(mask)[:, None]
        agnostic = make_agnostic_image(to_signed(person), keep)
        garment = pad_garment(to_signed(empty(1, 40, 40, 3)), 64, 48)
        results = [agnostic, garment, resize_keep_mask(keep, (8, 6))]
        results += [resize_mask_to_person("mask", empty(2, 128, 96), 64, 48)]
        results += [paste_back(person, person, mask, feather=0)]
        region = find_crop_region(empty(2, 300, 200, 3), 64, 48)
        cropped, padding = crop(region, 64, 48)
        stitched = stitch(region, cropped, mask, StitchOptions(feather=0))
        results += [cropped, padding, stitched]
        assert {result.device for result in results} == {GPU}
    assert len(recorded.reads) == 4
    assert (recorded.copies, recorded.float64) == ([], [])


def test_the_training_loss_waits_for_nothing():
    """The gradient is left out: PyTorch's engine asks the card itself."""
    config = TrainConfig(
        data=Path(), init=Path(), output=Path(), phase="atv", correspondence_blocks=(0,),
        loss_weighting="snr", height=64, width=48, atv_blocks=(0,),
    )  # fmt: skip
    with fake_gpu() as recorded:
        with built_on_gpu(torch.float32):
            model = TryOnModel(TINY)
        attention = AttentionRecorder(model.network.zero_cross_attention, (0,))
        batch = replace(
            make_latents(2, TINY.clip.hidden_size, torch.float32),
            warped_mask=empty(2, 64, 48, dtype=torch.uint8),
            garment_coordinates=empty(2, 64, 48, 3, dtype=torch.uint8),
        )
        sampled = TimestepsAndNoise(
            empty(2, dtype=torch.int64), empty(2, 4, 8, 6), empty(2, dtype=torch.bool)
        )
        recorded.copies.clear()
        noise = model(**make_model_inputs(batch, sampled))
        terms = compute_loss(config, TINY.network, noise, batch, sampled, attention.maps)
        assert terms.keys() == {"noise", "correspondence", "atv"}
        assert {term.device for term in terms.values()} == {GPU}
    schedule = ["aten._to_copy.default of (1000,) on cpu to cuda:0"] * 3
    assert (recorded.reads, recorded.copies, recorded.float64) == ([], schedule, [])
