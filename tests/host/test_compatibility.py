"""Compatibility with ComfyUI and with other packs' patches, on the real host."""

from dataclasses import replace

import comfy.model_management
import comfy.samplers
import comfy.sd
import pytest
import torch

from helpers.golden import fill
from helpers.host import apply, conditioning, make_images, sample


@pytest.fixture(scope="module")
def tryon(host, loaded):
    return conditioning(host, loaded, **make_images())


@pytest.fixture(scope="module")
def patched(host, loaded):
    return apply(host, loaded[0], loaded)


def test_strength_0_is_the_unpatched_model(host, loaded, tryon, patched):
    plain = sample(loaded[0], *tryon)
    assert torch.equal(sample(apply(host, loaded[0], loaded, strength=0), *tryon), plain)
    patch = host.module("nodes.host.patch")
    patched_with_0 = patch.patch_model(loaded[0], loaded[1], strength=0.0, start=0.0, end=1.0)
    assert torch.equal(sample(patched_with_0, *tryon), plain)
    assert not torch.equal(sample(patched, *tryon), plain)


def test_outside_start_and_end_it_is_the_unpatched_model(host, loaded, tryon, patched):
    plain, full = sample(loaded[0], *tryon), sample(patched, *tryon)
    assert torch.equal(sample(apply(host, loaded[0], loaded, start=1.0), *tryon), plain)
    half = sample(apply(host, loaded[0], loaded, end=0.5), *tryon)
    assert not torch.equal(half, plain) and not torch.equal(half, full)


def test_the_model_passed_to_apply_is_unchanged(host, loaded, tryon):
    model = loaded[0]

    def state() -> str:
        return repr((model.model_options, model.wrappers, model.additional_models, model.patches))

    before, plain = state(), sample(model, *tryon)
    sample(apply(host, model, loaded), *tryon)
    assert state() == before
    assert torch.equal(sample(model, *tryon), plain)


def test_run_bypass_run_gives_the_first_result_again(loaded, tryon, patched):
    first = sample(patched, *tryon)
    sample(loaded[0], *tryon)
    assert torch.equal(sample(patched, *tryon), first)


@torch.inference_mode()
def test_cond_and_uncond_in_one_batch_equal_the_two_alone(tryon, patched):
    predictions = []

    def record(arguments: dict) -> torch.Tensor:
        predictions.append((arguments["cond_denoised"], arguments["uncond_denoised"]))
        return arguments["denoised"]

    positive, negative, latent = tryon
    together = patched.clone()
    together.set_model_sampler_post_cfg_function(record)
    sample(together, positive, negative, latent, cfg=5.0, steps=1)
    cond, uncond = predictions[0]
    alone = [
        sample(patched, one, one, latent, steps=1, callback=None) for one in (positive, negative)
    ]
    scale = 1 / patched.model.latent_format.scale_factor
    for denoised, single in zip((cond, uncond), alone, strict=True):
        error = (denoised * scale - single).abs().max() / single.std()
        assert error <= 1e-5


def test_a_batch_equals_single_runs(host, loaded, patched):
    items = [make_images(name=str(i)) for i in range(3)]
    batch = {key: torch.cat([item[key] for item in items]) for key in items[0]}
    together = sample(patched, *conditioning(host, loaded, **batch), same_noise=True)
    for index, item in enumerate(items):
        single = sample(patched, *conditioning(host, loaded, **item))
        assert (together[index] - single[0]).abs().max() / single.std() <= 1e-5


def test_one_person_in_many_garments(host, loaded, patched):
    garments = torch.cat([make_images(name=str(i))["garment"] for i in range(2)])
    person = make_images()
    together = sample(
        patched, *conditioning(host, loaded, **person | {"garment": garments}), same_noise=True
    )
    for index in range(2):
        one = person | {"garment": garments[index : index + 1]}
        single = sample(patched, *conditioning(host, loaded, **one))
        assert (together[index] - single[0]).abs().max() / single.std() <= 1e-5


def _with_lora(model):
    key = "diffusion_model.middle_block.1.proj_in"
    lora = {
        f"{key}.lora_up.weight": fill("lora/up", (256, 4), 0.3),
        f"{key}.lora_down.weight": fill("lora/down", (4, 256), 0.3),
    }
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def _with_output_block_patch(model):
    model = model.clone()
    model.set_model_output_block_patch(lambda h, skip, options: (h, skip * 0.9))
    return model


def _with_attn2_patch(model):
    model = model.clone()
    model.set_model_attn2_patch(lambda q, k, v, options: (q, k, v * 0.5))
    return model


@pytest.mark.parametrize("other", [_with_lora, _with_output_block_patch, _with_attn2_patch])
def test_other_patches_work_before_and_after_ours(host, loaded, tryon, patched, other):
    before = sample(apply(host, other(loaded[0]), loaded), *tryon)
    after = sample(other(patched), *tryon)
    assert torch.equal(before, after)
    assert not torch.equal(after, sample(patched, *tryon)), "the other patch has no effect"
    assert not torch.equal(after, sample(other(loaded[0]), *tryon)), "ours has no effect"


def test_applied_twice_both_have_effect(host, loaded, tryon, patched):
    once, twice = sample(patched, *tryon), sample(apply(host, patched, loaded), *tryon)
    assert not torch.equal(once, twice)


def test_both_networks_are_in_the_memory_manager_and_leave_it(loaded, tryon, patched):
    def managed() -> set[int]:
        return {id(m.model.model) for m in comfy.model_management.current_loaded_models}

    networks = {id(loaded[0].model), id(loaded[1].adapter.model)}
    sample(patched, *tryon)
    assert networks <= managed()
    comfy.model_management.unload_all_models()
    assert not networks & managed()


def test_an_interrupted_run_leaves_nothing_behind(loaded, tryon, patched):
    first = sample(patched, *tryon, steps=3)
    options = repr(patched.model_options)

    def interrupt(*_) -> None:
        comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(patched, *tryon, steps=3, callback=interrupt)
    assert repr(patched.model_options) == options
    assert loaded[0].model.current_patcher is None
    assert torch.equal(sample(patched, *tryon, steps=3), first)


def test_conditioning_of_another_kind_is_an_error(patched, tryon):
    _, negative, latent = tryon
    with pytest.raises(ValueError, match="Encode Try-On"):
        sample(patched, [[torch.zeros(1, 1, 96), {}]], negative, latent)


def test_conditioning_with_an_area_is_an_error(host, patched, tryon):
    positive, negative, latent = tryon
    (positive,) = host.node(
        "ConditioningSetArea", conditioning=positive, width=64, height=64, x=0, y=0, strength=1.0
    )
    with pytest.raises(ValueError, match="area"):
        sample(patched, positive, negative, latent)


def test_a_model_that_is_no_unet_is_an_error(host, loaded):
    model = loaded[0]
    smaller = type(loaded[1].config)(
        replace(loaded[1].config.network, num_heads=4), loaded[1].config.clip
    )
    other = type(loaded[1])(loaded[1].adapter, loaded[1].image_projector, smaller)
    with pytest.raises(ValueError, match="different size"):
        apply(host, model, (model, other))
    plain = model.clone()
    plain.model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Linear, not a StableVITON UNet"):
        host.module("nodes.host.patch").patch_model(plain, loaded[1], 1.0, 0.0, 1.0)


def test_latents_of_another_size_are_sampled(patched, tryon):
    positive, negative, _ = tryon
    larger = {"samples": torch.zeros(1, 4, 24, 18)}
    assert sample(patched, positive, negative, larger).shape == (1, 4, 24, 18)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("dpmpp_2m", "karras"), ("ddim", "ddim_uniform"), ("uni_pc", "simple")],
)
def test_any_sampler_and_scheduler(patched, tryon, sampler, scheduler):
    result = sample(patched, *tryon, steps=3, cfg=2.0, sampler=sampler, scheduler=scheduler)
    assert result.isfinite().all()
