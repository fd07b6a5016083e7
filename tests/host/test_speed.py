"""What is skipped, kept and chosen for speed, and that the numbers stay."""

import gc
from types import SimpleNamespace

import comfy.ldm.modules.attention
import pytest
import torch
from comfy.cli_args import args
from comfy.utils import ProgressBar

from helpers.checkpoints import SMALL
from helpers.golden import CASES, REDUCED, error, golden_inputs, read_golden
from helpers.host import apply, conditioning, make_images, predict_noise

CPU = torch.device("cpu")


def make_network_inputs(case: str) -> tuple[torch.Tensor, ...]:
    batch, rows, columns, steps = CASES[case]
    x, garment, context = golden_inputs(case, batch, rows, columns, REDUCED.context_dim)
    return x, torch.tensor(steps), context, garment


def predict(host, loaded: tuple) -> torch.Tensor:
    return predict_noise(apply(host, loaded[0], loaded), *make_network_inputs("c"))


def test_the_encoder_in_the_host_has_only_the_blocks_that_are_run(loaded):
    encoder = loaded[1].adapter.model.encoder
    assert len(encoder.input_blocks) == SMALL.network.num_garment_features
    assert len(encoder.middle_block) == 0
    assert list(encoder.unused_parameters()) == []


def test_attention_in_chunks_is_replaced_unless_asked_for(host, monkeypatch):
    module = host.module("nodes.host.attention")
    functions = comfy.ldm.modules.attention
    for name in ("attention_sub_quad", "attention_pytorch"):
        monkeypatch.setattr(module, "optimized_attention", getattr(functions, name))
        assert module.choose_attention(CPU) is functions.attention_pytorch
    monkeypatch.setattr(module, "optimized_attention", functions.attention_sub_quad)
    assert module.choose_attention(torch.device("cuda")) is functions.attention_sub_quad
    monkeypatch.setattr(args, "use_quad_cross_attention", True)
    assert module.choose_attention(CPU) is functions.attention_sub_quad


def test_the_unet_of_the_loader_runs_with_scaled_dot_product_attention(host, loaded, monkeypatch):
    calls = []
    module = host.module("nodes.host.attention")
    attend = module.attention_pytorch

    def record(*inputs, **options):
        calls.append(inputs[0].shape)
        return attend(*inputs, **options)

    monkeypatch.setattr(module, "attention_pytorch", record)
    eps = predict(host, loaded)
    assert calls
    assert error(eps, read_golden("reduced")["c/eps"]) <= 1e-4


def test_no_value_is_read_from_the_device_where_the_range_is_all_of_sampling(
    host, loaded, monkeypatch
):
    reads, item = [], torch.Tensor.item
    whole, limited = apply(host, loaded[0], loaded), apply(host, loaded[0], loaded, end=0.999)
    inputs = make_network_inputs("c")
    monkeypatch.setattr(torch.Tensor, "item", lambda self: reads.append(1) or item(self))
    eps = predict_noise(whole, *inputs)
    assert len(reads) == 0
    assert torch.equal(predict_noise(limited, *inputs), eps)
    assert len(reads) == 1, "the test could not fail"


@pytest.mark.parametrize(
    ("capabilities", "faster"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD Zen 4"}, True),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, True),
        ({"avx2": True, "cpu_name": "AMD Zen 3"}, False),
        (None, False),
    ],
)
def test_bf16_is_computed_in_bf16_on_a_cpu_that_is_faster_with_it(
    host, monkeypatch, capabilities, faster
):
    dtypes = host.module("nodes.host.dtypes")
    cpu = SimpleNamespace(**({"get_capabilities": lambda: capabilities} if capabilities else {}))
    monkeypatch.setattr(torch, "cpu", cpu)
    computed = dtypes.choose_compute_dtype(torch.bfloat16, CPU)
    assert computed == (None if faster else torch.float32)
    assert dtypes.choose_compute_dtype(torch.float16, CPU) == torch.float32


def test_bf16_arithmetic_stays_close(host, loaded, small_checkpoint, monkeypatch):
    monkeypatch.setattr(host.module("nodes.host.dtypes"), "is_faster_in_bf16", lambda: True)
    bf16 = host.node("StableVITONLoader", ckpt_name=small_checkpoint, weight_dtype="bf16")
    assert bf16[0].model.manual_cast_dtype is None
    kept, computed = predict(host, loaded), predict(host, bf16)
    assert (computed - kept).abs().mean() / kept.abs().mean() <= 0.05


def count_encoded(vae, monkeypatch) -> list[int]:
    """The batch sizes of calls of its `encode`, as they come."""
    batches, encode = [], vae.encode
    monkeypatch.setattr(vae, "encode", lambda image: batches.append(len(image)) or encode(image))
    return batches


def make_flat_images(*levels: float) -> torch.Tensor:
    return torch.stack([torch.full((3, 64, 48), level) for level in levels])


def test_an_image_is_encoded_once_whatever_it_is_combined_with(host, loaded, monkeypatch):
    batches = count_encoded(loaded[3], monkeypatch)
    inputs = make_images(name="cached")
    first = conditioning(host, loaded, **inputs)
    assert batches == [1, 1, 1, 1]
    again = conditioning(host, loaded, **inputs)
    assert batches == [1, 1, 1, 1]
    assert torch.equal(first[2]["samples"], again[2]["samples"])
    for key, value in first[0][0][1].items():
        assert torch.equal(value, again[0][0][1][key]), key
    other = make_images(name="another")["garment"]
    changed = conditioning(host, loaded, **inputs | {"garment": other})
    assert batches == [1, 1, 1, 1, 1]
    key = "stableviton_garment"
    assert not torch.allclose(changed[0][0][1][key], first[0][0][1][key], atol=1e-2)


@torch.inference_mode()
def test_latents_that_are_changed_afterwards_are_not_the_kept_ones(host, loaded):
    inputs = make_images(name="kept")
    first = conditioning(host, loaded, **inputs)[2]["samples"]
    expected = first.clone()
    first.zero_()
    assert torch.equal(conditioning(host, loaded, **inputs)[2]["samples"], expected)


def test_other_devices_encode_each_image_once_in_one_batch(host, loaded, monkeypatch):
    module, vae, batches = host.module("nodes.host.encode_images"), loaded[3], []
    module._latents.clear()
    monkeypatch.setattr(vae, "device", torch.device("meta"))
    monkeypatch.setattr(vae, "encode", lambda image: batches.append(len(image)) or image)
    images = make_flat_images(0.0, 0.5, 0.0)
    encoded = module.encode_images(vae, images, ProgressBar(3))
    module._latents.clear()
    assert batches == [2]
    assert torch.allclose(encoded.movedim(-1, 1) * 2 - 1, images)


@torch.inference_mode()
def test_the_latents_kept_of_a_vae_are_bounded(host, loaded, monkeypatch):
    module, vae = host.module("nodes.host.encode_images"), loaded[3]
    monkeypatch.setattr(module, "LATENTS_KEPT", 2)
    batches = count_encoded(vae, monkeypatch)
    images, progress = make_flat_images(0.0, 0.3, 0.6), ProgressBar(5)
    module.encode_images(vae, images, progress)
    assert len(module._latents[vae]) == 2
    module.encode_images(vae, images[2:], progress)
    assert len(batches) == 3
    module.encode_images(vae, images[:1], progress)
    assert len(batches) == 4, "the one used longest ago goes"


def test_kept_latents_go_with_their_vae(host, small_checkpoint):
    module = host.module("nodes.host.encode_images")
    vae = host.node("StableVITONLoader", ckpt_name=small_checkpoint, weight_dtype="fp32")[3]
    with torch.inference_mode():
        module.encode_images(vae, make_flat_images(0.0), ProgressBar(1))
    count = len(module._latents)
    del vae
    gc.collect()
    assert len(module._latents) == count - 1
