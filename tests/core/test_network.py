"""The network against the authors' outputs, and at the sizes people use."""

import pytest
import torch
from einops import rearrange

from helpers.golden import CASES, REDUCED, error, fill, golden_inputs, golden_network, read_golden
from stableviton_core.model.config import NetworkConfig
from stableviton_core.model.layers import SpatialTransformer, enable_gradient_checkpointing
from stableviton_core.model.zero_cross_attention import TryOnNetwork

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def network() -> TryOnNetwork:
    return golden_network(REDUCED)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_reduced_features_and_eps_are_the_authors(network, case):
    batch, rows, columns, steps = CASES[case]
    golden = read_golden("reduced")
    x, garment, context = golden_inputs(case, batch, rows, columns, REDUCED.context_dim)
    timesteps = torch.tensor(steps)
    features = network.encoder(x, timesteps, context, garment)
    assert len(features) == REDUCED.num_garment_features == 9
    for index, feature in enumerate(features):
        expected = golden[f"{case}/feature.{index}"]
        assert error(feature[:, ::8, ::2, ::2], expected) <= TOLERANCE, f"feature {index}"
    assert error(network(x, timesteps, context, garment), golden[f"{case}/eps"]) <= TOLERANCE


@torch.no_grad()
def test_zero_cross_attention_block_is_the_authors(network):
    x = fill("input/block/x", (1, 256, 16, 12))
    tokens = fill("input/block/context", (1, 192, 256))
    index = REDUCED.first_cross_attention_block
    features = [torch.zeros(0)] * REDUCED.num_garment_features
    features[REDUCED.skip_index(index)] = rearrange(tokens, "b (h w) c -> b c h w", h=16)
    attended = network.zero_cross_attention(index, x, features)
    assert error(attended, read_golden("reduced")["block/out"]) <= TOLERANCE
    assert torch.equal(network.zero_cross_attention(index, x, features, strength=0.0), x)


def test_widths_of_the_released_network():
    config = NetworkConfig()
    queries, keys = zip(*config.cross_attention_channels, strict=True)
    assert queries == (1280, 1280, 1280, 1280, 640, 640, 640, 320, 320)
    assert keys == (1280, 1280, 640, 640, 640, 320, 320, 320, 320)
    assert [config.cross_attention_index(block) for block in range(12)] == [None] * 3 + list(
        range(9)
    )
    assert config.skip_index(3) == 8 and config.skip_index(11) == 0


def gradients(network: TryOnNetwork, context: torch.Tensor, inputs: tuple) -> dict:
    x, garment = inputs
    network.zero_grad(set_to_none=True)
    network(x, torch.tensor([500]), context, garment).square().mean().backward()
    named = network.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_unet_encoder_gives_no_gradient_as_released(checkpointing):
    """The context has its gradient from spatial encoder and output blocks, the same as if the UNet
    encoder's context were another, constant tensor."""
    config = NetworkConfig(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, context_dim=16)
    torch.manual_seed(0)
    network = TryOnNetwork(config)
    if checkpointing:
        enable_gradient_checkpointing(network)
    network.unet.requires_grad_(False)
    inputs = torch.randn(1, 13, 16, 16), torch.randn(1, 4, 16, 16)
    context = torch.randn(1, 1, 16, requires_grad=True)
    frozen = gradients(network, context, inputs)
    given, context.grad = context.grad.clone(), None
    assert not network.unet.trains_encoder()
    # the same by hand: the whole UNet with gradient, but its encoder reads a detached context
    hooks = [
        block.register_forward_pre_hook(
            lambda _, arguments: (arguments[0], arguments[1].detach(), *arguments[2:])
        )
        for part in (network.unet.input_blocks, network.unet.middle_block)
        for block in part.modules()
        if isinstance(block, SpatialTransformer)
    ]
    network.unet.input_blocks.requires_grad_(True)
    assert network.unet.trains_encoder()
    by_hand = gradients(network, context, inputs)
    assert torch.allclose(context.grad, given, atol=1e-7)
    assert all(torch.allclose(by_hand[name], frozen[name], atol=1e-6) for name in frozen)
    for hook in hooks:
        hook.remove()
    context.grad = None
    gradients(network, context, inputs)
    assert not torch.allclose(context.grad, given, atol=1e-6), "the test could not fail"


def test_only_the_parameters_that_are_never_run_get_no_gradient():
    config = NetworkConfig(
        model_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, context_dim=16
    )
    network = TryOnNetwork(config)
    torch.nn.init.normal_(network.encoder.cond_first_block[0].weight)
    x, garment, context = golden_inputs("size", 1, 16, 12, 16)
    network(x, torch.tensor([500]), context, garment).square().mean().backward()
    unused = {id(parameter) for parameter in network.encoder.unused_parameters()}
    expected = [name for name, p in network.named_parameters() if id(p) in unused]
    assert [name for name, p in network.named_parameters() if p.grad is None] == expected
    blocks = {".".join(name.split(".")[:3]) for name in expected}
    assert blocks == {"encoder.input_blocks.4", "encoder.input_blocks.5"} | {
        f"encoder.middle_block.{layer}" for layer in range(3)
    }


def test_gradient_checkpointing_gives_the_same_gradients():
    config = NetworkConfig(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, context_dim=16)
    network = TryOnNetwork(config)
    x, garment, context = golden_inputs("size", 1, 16, 12, 16)
    runs = []
    calls = []
    network.unet.input_blocks[1][0].in_layers.register_forward_hook(lambda *_: calls.append(1))
    for recompute in (False, True):
        if recompute:
            enable_gradient_checkpointing(network)
        network.zero_grad()
        network(x, torch.tensor([500]), context, garment).square().mean().backward()
        runs.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(calls) == 3, "the second run computes each block twice"
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(("width", "height"), [(192, 256), (384, 512), (512, 640), (144, 192)])
@torch.no_grad()
def test_every_image_size_that_is_a_multiple_of_8(width, height):
    config = NetworkConfig(
        model_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, context_dim=16
    )
    network = TryOnNetwork(config)
    rows, columns = height // 8, width // 8
    x, garment, context = golden_inputs("size", 1, rows, columns, 16)
    eps = network(x, torch.tensor([500]), context, garment)
    assert eps.shape == (1, 4, rows, columns)
    assert eps.isfinite().all()


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((32, 24), id="256x192"),
        pytest.param((128, 96), id="1024x768", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_four_levels_at_other_sizes(network, size):
    """The authors' code refuses 256 x 192."""
    x, garment, context = golden_inputs("size", 1, *size, REDUCED.context_dim)
    eps = network(x, torch.tensor([500]), context, garment)
    assert eps.shape == (1, 4, *size)
    unet = network.unet(x, torch.tensor([500]), context)
    assert not torch.allclose(eps, unet), "the garment has no effect"


@pytest.mark.slow
@torch.no_grad()
def test_full_size_is_the_authors():
    golden, config = read_golden("full"), NetworkConfig()
    network = golden_network(config)
    x, garment, context = golden_inputs("full", 1, 64, 48, config.context_dim)
    timesteps = torch.tensor([981])
    features = network.encoder(x, timesteps, context, garment)
    assert len(features) == config.num_garment_features == 9
    for index, feature in enumerate(features):
        expected = golden[f"full/feature.{index}"]
        assert error(feature[:, ::40, ::4, ::4], expected) <= TOLERANCE, f"feature {index}"
    assert error(network(x, timesteps, context, garment), golden["full/eps"]) <= TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_full_size_at_1024_x_768():
    network = golden_network(NetworkConfig())
    x, garment, context = golden_inputs("size", 1, 128, 96, 768)
    assert network(x, torch.tensor([500]), context, garment).isfinite().all()
