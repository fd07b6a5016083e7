"""Where the garment lands, on the real host with the demo checkpoint, which has learned it from
drawn persons; here one that it has not seen."""

from types import SimpleNamespace

import comfy.model_management
import pytest
import torch

from helpers.host import apply, conditioning, make_images, sample
from stableviton_core.image_tensors import to_images, to_masks
from stableviton_core.synthetic.write_dataset import generate_samples

TOKENS = torch.tensor([24, 32])  # across and down, of the finest block
VIEW = {"show": "coordinates", "point_x": 0.5, "point_y": 0.4, "timestep": 100}


@pytest.fixture(scope="module")
def demo(host) -> tuple:
    checkpoint = "stableviton-demo.safetensors"
    return host.node("StableVITONLoader", ckpt_name=checkpoint, weight_dtype="fp32")


@pytest.fixture(scope="module")
def drawn(host, demo) -> SimpleNamespace:
    """A person in another garment than the photographed one, the truth of the try-on as its
    result, and what the node makes of it."""
    ((worn, target),) = generate_samples(1, 2, 256, seed=7_000_000, patterns=("checks", "letter"))
    images = {name: to_images([getattr(target, name)]) for name in ("garment", "densepose")}
    mask = to_masks([target.mask > 0])
    inputs = conditioning(host, demo, person=to_images([worn.image]), mask=mask, **images)
    tryon = to_images([target.image])
    (latent,) = host.node("VAEEncode", vae=demo[3], pixels=tryon)
    common = {"tryon": tryon, "garment": images["garment"]}
    find = {
        "model": apply(host, demo[0], demo),
        "positive": inputs[0],
        "latent": latent,
        "densepose": images["densepose"],
        "garment_mask": to_masks([target.garment_mask > 0]),
        **common,
        **VIEW,
    }
    image, confidence, field, region = host.node("StableVITONCorrespondence", **find)
    return SimpleNamespace(
        sample=target,
        worn=to_images([worn.image]),
        find=find,
        common=common | {"field": field, "mask": mask},
        inputs=inputs,
        image=image,
        confidence=confidence,
        field=field,
        region=region,
    )


def test_it_finds_where_the_garment_lands(drawn):
    truth = torch.from_numpy(drawn.sample.garment_coordinates)
    shown = truth[..., 2] > 0
    errors = (drawn.field.coordinates[0] - truth[..., :2] / 255)[shown] * TOKENS
    assert errors.norm(dim=-1).median() < 1.5
    assert drawn.image.shape == (1, 256, 384, 3) and drawn.confidence.shape == (1, 256, 192)
    assert drawn.confidence[0][shown].mean() > 1.5 * drawn.confidence.mean()
    assert drawn.confidence[0][torch.from_numpy(drawn.sample.mask) == 0].mean() < 0.05


def test_a_region_of_the_garment_is_found_on_the_person(host, drawn):
    truth = torch.from_numpy(drawn.sample.garment_coordinates)
    middle = (truth[..., 2] > 0) & ((truth[..., :2] / 255 - 0.5).abs().amax(dim=-1) < 0.05)
    region = torch.zeros(1, 256, 192)
    region[:, 102:154, 77:115] = 1
    find = drawn.find | {"show": "region", "region": region}
    *_, landed = host.node("StableVITONCorrespondence", **find)
    assert landed[0][middle].mean() > 5 * landed.mean()
    assert landed.max() <= 1 and landed.min() >= 0


def test_the_model_and_the_sampling_are_left_as_they_were(host, loaded):
    model = apply(host, loaded[0], loaded)
    images = make_images()
    positive, negative, latent = conditioning(host, loaded, **images)
    before = sample(model, positive, negative, latent)
    hooks = [len(m._forward_hooks) for m in loaded[1].adapter.model.modules()]
    patches = repr((model.model_options, model.wrappers, model.additional_models))
    find_in_small(host, model, positive, latent, images)
    assert [len(m._forward_hooks) for m in loaded[1].adapter.model.modules()] == hooks
    assert repr((model.model_options, model.wrappers, model.additional_models)) == patches
    assert torch.equal(sample(model, positive, negative, latent), before)


def find_in_small(
    host, model, positive: list, latent: dict, images: dict, changes: dict | None = None
) -> tuple:
    inputs = {
        "model": model,
        "positive": positive,
        "latent": latent,
        "tryon": images["person"],
        "garment": images["garment"],
        "garment_mask": torch.ones(1, 128, 96),
        **VIEW,
    }
    return host.node("StableVITONCorrespondence", **inputs | (changes or {}))


def test_a_batch_equals_single_runs(host, demo):
    """Of persons with their DensePose, in one garment."""
    looks = [sample for _, sample in generate_samples(2, 2, 128, seed=8_000_000)]
    both = {name: to_images([getattr(x, name) for x in looks]) for name in ("image", "densepose")}
    garment = to_images([looks[0].garment])
    masks = to_masks([x.mask > 0 for x in looks])
    model, fields = apply(host, demo[0], demo), []
    for items in (slice(0, 2), slice(0, 1), slice(1, 2)):
        person, densepose = both["image"][items], both["densepose"][items]
        inputs = {"person": person, "densepose": densepose, "mask": masks[items]}
        positive, _, latent = conditioning(host, demo, garment=garment, **inputs)
        images = {"person": person, "garment": garment}
        found = find_in_small(host, model, positive, latent, images, {"densepose": densepose})
        fields.append(found[2])
    together, *singles = fields
    for item, single in enumerate(singles):
        assert (together.coordinates[item] - single.coordinates[0]).abs().max() < 1e-3
        assert (together.confidence[item] - single.confidence[0]).abs().max() < 1e-3


def test_inputs_that_do_not_fit_are_refused(host, loaded, errors):
    model, images = apply(host, loaded[0], loaded), make_images()
    positive, _, latent = conditioning(host, loaded, **images)
    for changes, message in (
        ({"positive": 2 * positive}, "positive has 2 entries"),
        ({"tryon": torch.zeros(1, 128, 128, 3)}, "try-on is 128 x 128"),
        ({"tryon": torch.zeros(2, 128, 96, 3), "region": torch.ones(3, 128, 96)}, "unequal length"),
        ({"region": torch.ones(1, 64, 64)}, "region is 64 x 64"),
        ({"latent": {"samples": torch.zeros(1, 4, 1, 16, 12)}}, "got 1 x 4 x 1 x 16 x 12"),
    ):
        with pytest.raises(errors, match=message):
            find_in_small(host, model, positive, latent, images, changes)


def test_the_attention_of_two_applications_is_read(host, loaded):
    images = make_images()
    positive, _, latent = conditioning(host, loaded, **images)
    early = apply(host, loaded[0], loaded, end=0.5)
    both = apply(host, early, loaded, start=0.5)
    *_, field, _ = find_in_small(host, both, positive, latent, images)
    late = apply(host, loaded[0], loaded, start=0.5)
    *_, alone, _ = find_in_small(host, late, positive, latent, images)
    assert torch.equal(field.coordinates, alone.coordinates)


def test_an_interrupted_pass_leaves_nothing_behind(host, loaded):
    model, images = apply(host, loaded[0], loaded), make_images()
    positive, negative, latent = conditioning(host, loaded, **images)
    before = sample(model, positive, negative, latent)
    broken = model.clone()

    def interrupt(*_args, **_options):
        raise comfy.model_management.InterruptProcessingException

    broken.set_model_output_block_patch(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find_in_small(host, broken, positive, latent, images)
    modules = loaded[1].adapter.model.modules()
    assert not any(module._forward_hooks for module in modules)
    assert torch.equal(sample(model, positive, negative, latent), before)


def test_a_model_without_attention_to_the_garment_is_refused(host, loaded, errors):
    images = make_images()
    positive, _, latent = conditioning(host, loaded, **images)
    for model in (loaded[0], apply(host, loaded[0], loaded, end=0.5)):
        with pytest.raises(errors, match="no attention to a garment at timestep 100"):
            find_in_small(host, model, positive, latent, images)


def test_detail_of_strength_0_is_the_tryon(host, drawn):
    (same,) = host.node(
        "StableVITONDetail", **drawn.common, strength=0.0, coarsest=0.06, finest=0.0
    )
    assert torch.equal(same, drawn.common["tryon"])


def test_detail_changes_nothing_outside_the_mask(host, drawn):
    mask = drawn.common["mask"]
    (detailed,) = host.node(
        "StableVITONDetail", **drawn.common, strength=1.0, coarsest=0.06, finest=0.0
    )
    assert torch.equal(detailed[mask == 0], drawn.common["tryon"][mask == 0])
    assert not torch.equal(detailed, drawn.common["tryon"])


def test_the_score_prefers_the_right_garment(host, drawn):
    score, report, _ = host.node("StableVITONScore", **drawn.common)
    worse, *_ = host.node("StableVITONScore", **drawn.common | {"tryon": drawn.worn})
    assert 0 < worse < 0.8 * score < 1
    both = torch.cat([drawn.worn, drawn.common["tryon"]])
    mean, lines, best = host.node("StableVITONScore", **drawn.common | {"tryon": both})
    assert torch.equal(best, drawn.common["tryon"])
    assert mean == pytest.approx((score + worse) / 2) and len(lines.splitlines()) == 2
    assert report.startswith(f"{score:.3f} (confidence ")


def test_a_tryon_of_another_aspect_is_refused(host, drawn):
    image_error = host.module("stableviton_core.errors").ImageError
    wide = drawn.common | {"tryon": torch.zeros(1, 256, 256, 3)}
    with pytest.raises(image_error, match="256 x 256 .* field 192 x 256"):
        host.node("StableVITONScore", **wide)
