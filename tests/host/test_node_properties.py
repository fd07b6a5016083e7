"""Whatever is connected to a node, it gives a result of the right size or our error: images and
masks of any size, batch, type and number of channels, with NaN, empty, or of another rank."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.host import apply, conditioning, make_images, sample
from helpers.limits import require_limits
from helpers.loras import write_lora
from helpers.person_nodes import LARGEST, MASK, PARSE, PHOTO, SKELETON
from stableviton_core.image_tensors import to_images
from stableviton_core.images import read_image

SIDES = (1, 7, 8, 31, 64, 96, 200)
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SPOILED = ("", "", "", "", "", "NaN", "infinity", "empty", "rank", "integers", "channels")
WIDE = {"width": st.sampled_from((8, 64, 128, 12)), "height": st.sampled_from((8, 64, 96, 13))}
FRACTION = st.floats(0, 1)

check = settings(
    max_examples=int(os.environ.get("EXAMPLES", "20")),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@pytest.fixture
def held() -> Iterator[list]:
    """Takes an entry for every example that gave a result; without any, nothing was tested."""
    entries: list = []
    yield entries
    assert entries, "no example gave a result"


@st.composite
def images(draw: Callable, channels: tuple[int, ...] = (1, 2, 3, 3, 3, 4)) -> Tensor:
    """IMAGE, and what other packs give for one."""
    shape = [
        draw(st.integers(1, 3)),
        draw(st.sampled_from(SIDES)),
        draw(st.sampled_from(SIDES)),
        draw(st.sampled_from(channels)),
    ]
    spoiled = draw(st.sampled_from(SPOILED))
    if spoiled == "empty":
        shape[draw(st.integers(0, 2))] = 0
    elif spoiled == "channels":
        shape[3] = draw(st.sampled_from((0, 5)))
    values = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    values = values.round() if draw(st.booleans()) else values
    if spoiled in ("NaN", "infinity"):
        values.flatten()[-1] = float("nan" if spoiled == "NaN" else "inf")
    if spoiled == "rank":
        return draw(st.sampled_from((values[0], values[None])))
    return values.to(torch.uint8 if spoiled == "integers" else draw(st.sampled_from(TYPES)))


@st.composite
def photos(draw: Callable) -> Tensor:
    """IMAGE, half of the time of a person."""
    if draw(st.booleans()):
        return draw(images())
    size = {"size": draw(st.sampled_from((256, 320))), "mode": "area"}
    person = F.interpolate(rearrange(to_images([read_image(PHOTO)]), "b h w c -> b c h w"), **size)
    batch = draw(st.integers(1, 2))
    return repeat(person, "1 c h w -> b h w c", b=batch).to(draw(st.sampled_from(TYPES)))


@st.composite
def masks(draw: Callable) -> Tensor:
    """MASK, and what other packs give for one."""
    mask = draw(images(channels=(1,)))
    form = draw(st.sampled_from(("B H W", "B H W", "B H W", "H W", "B 1 H W", "B H W 1")))
    if mask.ndim != 4 or mask.shape[-1] != 1 or not len(mask):
        return mask
    by_form = {"B H W": mask[..., 0], "H W": mask[0, ..., 0], "B 1 H W": mask[..., 0][:, None]}
    return by_form.get(form, mask)


@st.composite
def alike(draw: Callable, names: tuple[str, ...], mask: str = "mask") -> dict[str, Tensor]:
    """Several images and a mask, half of the time of one size and batch, so that they fit."""
    drawn: dict[str, Tensor] = {name: draw(images()) for name in names}
    drawn[mask] = draw(masks())
    if draw(st.booleans()):
        shape = draw(st.integers(1, 2)), draw(st.sampled_from((8, 64, 96))), 64
        for name in names:
            drawn[name] = torch.rand(*shape, 3).to(draw(st.sampled_from(TYPES)))
        drawn[mask] = (torch.rand(shape) > 0.5).to(draw(st.sampled_from(TYPES)))
    return drawn


def is_good(image: Tensor, channels: tuple[int, ...] = (3,)) -> bool:
    return image.dtype == torch.float32 and image.shape[3:] == channels and image.isfinite().all()


@check
@given(inputs=alike(("person", "tryon")), feather=st.integers(0, 256))
def test_paste_back_keeps_everything_outside_the_mask(host, held, errors, inputs, feather):
    with require_limits():
        try:
            (image,) = host.node("StableVITONPasteBack", **inputs, feather=feather)
        except errors:
            return
    held.append(1)
    person, mask = inputs["person"], inputs["mask"]
    assert is_good(image) and image.shape[1:3] == person.shape[1:3]
    if person.shape[-1] == 3 and mask.shape == image.shape[:3]:
        outside = (mask == 0)[..., None].expand_as(image)
        assert torch.equal(image[outside], person.float().expand_as(image)[outside])


@check
@given(
    photo=images(),
    mask=st.none() | masks(),
    around=st.sampled_from(("whole photo", "mask")),
    context=st.floats(0, 4),
    with_mask=st.booleans(),
    feather=st.integers(-1, 512),
    blend=st.sampled_from(("plain", "multi-band")),
    match_colour=st.booleans(),
    **WIDE,
)
def test_stitch_takes_what_crop_made(
    host, held, errors, photo, mask, with_mask, feather, blend, match_colour, **options
):
    with require_limits():
        try:
            image, padding, region, _ = host.node(
                "StableVITONCrop", photo=photo, mask=mask, **options
            )
        except errors:
            return
        size = (len(image), options["height"], options["width"])
        assert is_good(image) and image.shape[:3] == padding.shape == size
        blending = {"feather": feather, "blend": blend, "match_colour": match_colour}
        chosen = torch.zeros(size) if with_mask else None
        stitched = host.node("StableVITONStitch", crop=region, image=image, mask=chosen, **blending)
    held.append(1)
    assert is_good(stitched[0]) and stitched[0].shape[1:3] == photo.shape[1:3]
    if with_mask and photo.shape[-1] == 3:
        assert torch.equal(stitched[0], photo.float().expand_as(stitched[0])), "an empty mask"


@check
@given(inputs=alike(("person", "densepose", "garment")), agnostic=st.none() | images())
def test_conditioning(host, held, errors, loaded, inputs, agnostic):
    with require_limits():
        try:
            positive, negative, latent = conditioning(host, loaded, **inputs, agnostic=agnostic)
        except errors:
            return
    held.append(1)
    batch, height, width = max(map(len, inputs.values())), *inputs["person"].shape[1:3]
    assert latent["samples"].shape[2:] == (height // 8, width // 8)
    for cond in (positive, negative):
        assert len(cond[0][0]) == len(latent["samples"]) <= batch and cond[0][0].isfinite().all()
        for value in filter(torch.is_tensor, cond[0][1].values()):
            assert value.isfinite().all() and value.shape[2:] == latent["samples"].shape[2:]


PERSON_NODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "StableVITONPose": ({"image": photos()}, {"model": "blazepose"} | LARGEST),
    "StableVITONParse": ({"image": photos(), "label_image": st.none() | images()}, PARSE),
    "StableVITONDensePose": (
        {"image": photos(), "densepose": st.none() | images()},
        SKELETON | LARGEST,
    ),
    "StableVITONAgnosticMask": (
        {
            "image": photos(),
            "add": st.none() | masks(),
            "remove": st.none() | masks(),
            "garment_mask": st.none() | masks(),
        },
        MASK,
    ),
    "StableVITONGarment": (
        {"photo": photos(), "mask": st.none() | masks(), **WIDE, "straighten": st.booleans()},
        {},
    ),
    "StableVITONCrop": (
        {"photo": photos(), "mask": st.none() | masks(), **WIDE},
        {"around": "person"},
    ),
}


@pytest.mark.parametrize("node", PERSON_NODES)
def test_nodes_of_photos(host, held, errors, node):
    drawn, fixed = PERSON_NODES[node]

    @check
    @given(inputs=st.fixed_dictionaries(drawn))
    def run(inputs: dict[str, Any]) -> None:
        with require_limits():
            try:
                outputs = host.node(node, **inputs, **fixed)
            except errors:
                return
        held.append(1)
        images = [value for value in outputs if isinstance(value, Tensor)]
        assert images and all(value.isfinite().all() for value in images)

    run()


@pytest.mark.parametrize(("dtype", "channels"), zip(TYPES, (1, 2, 3, 4), strict=True))
def test_a_photo_of_any_type_gives_the_same_mask(host, working, dtype, channels):
    grey = working[:, ::2, ::2].mean(dim=-1, keepdim=True).mul(255).round().div(255)
    colours = grey.expand(*grey.shape[:3], 3 if channels > 2 else 1)
    layers = [colours, torch.ones_like(grey)] if channels in (2, 4) else [colours]
    mask, *_ = host.node("StableVITONAgnosticMask", image=torch.cat(layers, -1).to(dtype), **MASK)
    expected, *_ = host.node("StableVITONAgnosticMask", image=grey.expand(-1, -1, -1, 3), **MASK)
    assert (mask == expected).float().mean() > (0.98 if dtype == torch.bfloat16 else 0.999)


OF_A_TRYON = {"tryon": images(), "garment": images(), "garment_mask": masks()}


@pytest.fixture(scope="module")
def field(host, loaded) -> dict[str, Any]:
    """What correspondence nodes take, and the field of it."""
    inputs = make_images()
    positive, negative, latent = conditioning(host, loaded, **inputs)
    common = {"tryon": inputs["person"], "garment": inputs["garment"]}
    find = {"model": apply(host, loaded[0], loaded), "positive": positive, "latent": latent}
    find |= common | {"show": "coordinates", "point_x": 0.5, "point_y": 0.5, "timestep": 100}
    find["garment_mask"] = torch.ones(1, 128, 96)
    *_, found, _ = host.node("StableVITONCorrespondence", **find)
    return {"find": find, "common": common | {"field": found, "mask": inputs["mask"]}}


@check
@given(
    changes=st.fixed_dictionaries({}, optional=OF_A_TRYON | {"region": masks()}),
    show=st.sampled_from(("coordinates", "matching dots", "region")),
    timestep=st.integers(0, 999),
    point=st.tuples(FRACTION, FRACTION),
)
def test_correspondence(host, held, errors, field, changes, show, timestep, point):
    changes = changes | {"show": show, "timestep": timestep}
    changes |= {"point_x": point[0], "point_y": point[1]}
    with require_limits():
        try:
            image, confidence, _, region = host.node(
                "StableVITONCorrespondence", **(field["find"] | changes)
            )
        except errors:
            return
    held.append(1)
    assert is_good(image) and is_good(confidence, ()) and is_good(region, ())


@pytest.mark.parametrize("node", ["StableVITONDetail", "StableVITONScore"])
def test_what_a_field_is_used_for(host, held, errors, field, node):
    detail = {"strength": FRACTION, "coarsest": st.floats(0.005, 0.5), "finest": st.floats(0, 64)}

    @check
    @given(
        changes=st.fixed_dictionaries({}, optional=OF_A_TRYON | {"mask": masks()}),
        options=st.fixed_dictionaries(detail if node == "StableVITONDetail" else {}),
    )
    def run(changes: dict[str, Tensor], options: dict[str, float]) -> None:
        with require_limits():
            try:
                result, *_ = host.node(node, **(field["common"] | changes), **options)
            except errors:
                return
        held.append(1)
        if isinstance(result, float):
            assert 0 <= result <= 1
        elif options["strength"]:
            assert is_good(result)

    run()


@check
@given(
    strength=st.sampled_from((0.0, 0.01, 1.0, 2.0)) | st.floats(0, 2),
    bounds=st.tuples(FRACTION, FRACTION),
    steps=st.integers(1, 4),
    cfg=st.floats(1, 4),
    lora=st.sampled_from((0.0, 1.0, -1.0)),
    reuse=st.tuples(st.floats(0, 1), st.integers(1, 8)),
)
def test_sampling_at_any_strength(host, held, loaded, strength, bounds, steps, cfg, lora, reuse):
    file = host.base / "models" / "loras" / "properties.safetensors"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        write_lora(file)
    options = {"lora_name": file.name, "strength": lora}
    (stableviton,) = host.node("StableVITONLora", stableviton=loaded[1], **options)
    changed = (loaded[0], stableviton, *loaded[2:])
    positive, negative, latent = conditioning(host, changed, **make_images(size=(64, 64)))
    patched = apply(host, loaded[0], changed, strength, *bounds)
    if strength:
        options = {"garment_interval": reuse[0], "deep_every": reuse[1]}
        (patched,) = host.node("StableVITONReuse", model=patched, **options)
    result = sample(patched, positive, negative, latent, cfg=cfg, steps=steps)
    held.append(1)
    assert result.shape == latent["samples"].shape and result.isfinite().all()
    if strength == 0:
        assert torch.equal(result, sample(loaded[0], positive, negative, latent, cfg, steps))


@check
@given(steps=st.integers(1, 1000))
def test_schedules_fall_to_the_last_timestep(host, loaded, steps):
    (sigmas,) = host.node("StableVITONSchedule", model=loaded[0], steps=steps)
    assert len(sigmas) > min(steps, 999) and (sigmas.diff() <= 0).all() and sigmas.isfinite().all()
    assert sigmas[-1] == loaded[0].get_model_object("model_sampling").sigmas[0]
