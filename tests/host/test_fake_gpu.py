"""The pack on a GPU, without one: everything lies where the host puts it, and sampling waits for
nothing."""

import comfy.model_management
import comfy.sample
import pytest
import torch
from comfy.cli_args import args
from torch import Tensor

from helpers.fake_gpu import GPU, fake_gpu
from helpers.host import apply


@pytest.fixture
def gpu(monkeypatch):
    """What the host learns from a card: that there is one, with memory and fp16."""
    management = comfy.model_management
    monkeypatch.setattr(args, "force_fp16", True)
    monkeypatch.setattr(management, "get_torch_device", lambda: GPU)
    for name in ("get_free_memory", "get_total_memory"):
        monkeypatch.setattr(management, name, answer_memory)
    monkeypatch.setattr(management, "current_loaded_models", [])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: GPU.index)
    for name in ("synchronize", "set_device"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.nn.Module, "to", move_module)


def move_module(module: torch.nn.Module, device: torch.device, *_, **__) -> torch.nn.Module:
    """PyTorch's own `to` cannot move parameters that are fake."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(parameter.to(device), False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer.to(device)
    return module


def answer_memory(_device=None, torch_free_too: bool = False, torch_total_too: bool = False):
    memory = 8 * 2**30
    return (memory, memory) if torch_free_too or torch_total_too else memory


@pytest.fixture(scope="module")
def checkpoint(host, small_checkpoint):
    host.module("stableviton_core.schedule").alphas_cumprod()  # is kept, and must not be a fake one
    load = host.module("nodes.host.load_checkpoint")
    return load.read_checkpoint(host.base / "models" / "stableviton" / small_checkpoint)


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_the_passes_of_sampling_wait_for_nothing(host, gpu, checkpoint, cfg):
    waits = []
    has_latent, timesteps = 1, (751, 501, 251, 1)  # what is read before the first pass
    with fake_gpu([has_latent, *timesteps]) as recorded, torch.no_grad():
        model = apply_to_loaded(host, checkpoint)
        (sigmas,) = host.node("StableVITONSchedule", model=model, steps=4)
        context, latents = make_conditioning(host, checkpoint.config.network.context_dim)
        result = comfy.sample.sample_custom(
            model,
            torch.empty(1, 4, 16, 12),
            cfg,
            host.node("StableVITONPLMS")[0],
            sigmas,
            [[context, latents]],
            [[context, latents]],
            torch.empty(1, 4, 16, 12),
            callback=lambda *_: waits.append((len(recorded.reads), len(recorded.copies))),
            disable_pbar=True,
        )
        assert (result.device.type, tuple(result.shape)) == ("cpu", (1, 4, 16, 12))
    assert len(waits) == 4 and len(set(waits)) == 1
    assert len(recorded.reads) == 5
    assert recorded.float64 == []


def apply_to_loaded(host, checkpoint):
    adapters = host.module("nodes.host.adapter")
    unet = host.module("nodes.host.load_checkpoint").load_unet(checkpoint, "fp16")
    adapter = adapters.load_adapter(checkpoint, torch.float16)
    assert unet.load_device == adapter.load_device == GPU
    return apply(host, unet, (unet, adapters.StableVITON(adapter, None, checkpoint.config)))


def make_conditioning(host, context_dim: int) -> tuple[Tensor, dict[str, Tensor]]:
    """On the CPU, where the host keeps conditioning."""
    model = host.module("nodes.host.model")
    latents = {key: torch.empty(1, 4, 16, 12) for key in (*model.CONCATENATED, model.GARMENT)}
    return torch.empty(1, 1, context_dim), latents | {model.KEEP: torch.empty(1, 1, 16, 12)}


def test_the_context_of_a_garment(host, gpu, checkpoint):
    load, adapters = host.module("nodes.host.load_checkpoint"), host.module("nodes.host.adapter")
    encode_context = host.module("nodes.host.conditioning")._encode_context
    with fake_gpu() as recorded, torch.no_grad():
        clip_vision = load.load_clip_vision(checkpoint, "fp16")
        projector = adapters.load_image_projector(checkpoint)
        stableviton = adapters.StableVITON(None, projector, checkpoint.config)
        context, unconditional = encode_context(
            stableviton, clip_vision, torch.empty(1, 3, 128, 96)
        )
        assert projector.load_device == GPU
        assert {context.device.type, unconditional.device.type} == {"cpu"}
    assert (recorded.reads, recorded.float64) == ([], [])
