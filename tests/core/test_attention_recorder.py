"""Recording the attention to the garment, against PyTorch's own softmax attention."""

import pytest
import torch

from stableviton_core.errors import StableVITONError
from stableviton_core.model.attention_recorder import AttentionRecorder
from stableviton_core.model.config import NetworkConfig
from stableviton_core.model.layers import enable_gradient_checkpointing
from stableviton_core.model.zero_cross_attention import TryOnNetwork

CONFIG = NetworkConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_heads=1, context_dim=16
)


@pytest.fixture
def network() -> TryOnNetwork:
    torch.manual_seed(0)
    return TryOnNetwork(CONFIG)


def predict(network: TryOnNetwork) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, garment = (torch.randn(2, c, 8, 6, generator=generator) for c in (13, 4))
    context = torch.randn(2, 1, 16, generator=generator)
    return network(x, torch.tensor([3, 700]), context, garment)


def test_maps_are_the_attentions_own_and_its_output_stays(network):
    before = predict(network)
    recorder = AttentionRecorder(network.zero_cross_attention, [0, 1])
    inputs = {}
    layer = network.zero_cross_attention.warp_flow_blks[1].transformer_blocks[0].attn2
    layer.to_v.register_forward_hook(lambda *args: inputs.update(v=args[2]))
    layer.to_out.register_forward_pre_hook(lambda _, args: inputs.update(out=args[0]))
    assert torch.equal(predict(network), before)
    assert set(recorder.maps) == {0, 1}
    attention = recorder.maps[1]
    assert attention.shape == (2, 48, 48)
    assert torch.allclose(attention.sum(-1), torch.ones(2, 48))
    # of one head, the layer's output before its projection is the map times the values
    assert torch.allclose(attention @ inputs["v"], inputs["out"], atol=1e-5)


def test_gradients_flow_through_the_maps_also_when_activations_are_recomputed(network):
    gradients = []
    for recompute in (False, True):
        if recompute:
            enable_gradient_checkpointing(network)
        recorder = AttentionRecorder(network.zero_cross_attention, [1])
        network.zero_grad()
        predict(network)
        recorder.maps[1].square().sum().backward()
        recorder.remove()
        to_q = network.zero_cross_attention.warp_flow_blks[1].transformer_blocks[0].attn2.to_q
        gradients.append(to_q.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, atol=1e-6)


def test_after_removal_nothing_is_recorded(network):
    recorder = AttentionRecorder(network.zero_cross_attention, [0])
    recorder.remove()
    predict(network)
    assert recorder.maps == {}


def test_a_block_that_does_not_exist_is_an_error(network):
    with pytest.raises(StableVITONError, match=r"0\.\.1 in this network, got \[4\]"):
        AttentionRecorder(network.zero_cross_attention, [4])
