"""Where the garment lands, on the real host with the demo checkpoint, which has learned it from
drawn persons; here one that it has not seen."""

from types import SimpleNamespace

import pytest
import torch

from helpers.host import apply, conditioning, make_images, sample
from stableviton_core.image_tensors import to_images, to_masks
from stableviton_core.synthetic.write_dataset import generate_samples

TOKENS = torch.tensor([24, 32])  # across and down, of the finest block


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
    common["garment_mask"] = to_masks([target.garment_mask > 0])
    find = {
        "model": apply(host, demo[0], demo),
        "positive": inputs[0],
        "latent": latent,
        "densepose": images["densepose"],
        "show": "coordinates",
        "point_x": 0.5,
        "point_y": 0.4,
        "timestep": 100,
        **common,
    }
    image, confidence, field, region = host.node("StableVITONCorrespondence", **find)
    return SimpleNamespace(
        sample=target,
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


def find_in_small(host, model, positive: list, latent: dict, images: dict) -> tuple:
    return host.node(
        "StableVITONCorrespondence",
        model=model,
        positive=positive,
        latent=latent,
        tryon=images["person"],
        garment=images["garment"],
        garment_mask=torch.ones(1, 128, 96),
        show="matching dots",
        point_x=0.5,
        point_y=0.5,
        timestep=100,
    )


def test_a_batch_equals_single_runs(host, loaded):
    model = apply(host, loaded[0], loaded)
    items = [make_images(name=str(i)) for i in range(2)]
    batch = {key: torch.cat([item[key] for item in items]) for key in items[0]}
    positive, _, latent = conditioning(host, loaded, **batch)
    *_, together, _ = find_in_small(host, model, positive, latent, batch)
    for index, item in enumerate(items):
        positive, _, latent = conditioning(host, loaded, **item)
        *_, single, _ = find_in_small(host, model, positive, latent, item)
        assert (together.coordinates[index] - single.coordinates[0]).abs().max() < 1e-3
        assert (together.confidence[index] - single.confidence[0]).abs().max() < 1e-3


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
    score, report = host.node("StableVITONScore", **drawn.common)
    other = drawn.common | {"tryon": drawn.common["tryon"].flip(-1).roll(9, dims=1)}
    worse, _ = host.node("StableVITONScore", **other)
    assert 0 < worse < 0.9 * score < 1
    assert report.startswith(f"{score:.3f} (confidence ")


def test_a_tryon_of_another_aspect_is_refused(host, drawn):
    image_error = host.module("stableviton_core.errors").ImageError
    wide = drawn.common | {"tryon": torch.zeros(1, 256, 256, 3)}
    with pytest.raises(image_error, match="256 x 256 .* field 192 x 256"):
        host.node("StableVITONScore", **wide)
