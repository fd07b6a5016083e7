"""The pack on a GPU, without one: everything lies where the host puts it, and sampling waits for
nothing."""

import comfy.model_management
import comfy.sample
import pytest
import torch
from comfy.cli_args import args

from helpers.fake_gpu import GPU, fake_gpu
from helpers.host import apply


class Card:
    """Free and total memory in bytes, as the host asks for them."""

    memory = 8 * 2**30

    def answer(self, _device=None, torch_free_too: bool = False, torch_total_too: bool = False):
        return (self.memory,) * 2 if torch_free_too or torch_total_too else self.memory


@pytest.fixture
def gpu(monkeypatch) -> Card:
    """What the host learns from a card: that there is one, with memory and fp16."""
    card = Card()
    management = comfy.model_management
    monkeypatch.setattr(args, "force_fp16", True)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(management, "get_torch_device", lambda: GPU)
    for name in ("get_free_memory", "get_total_memory"):
        monkeypatch.setattr(management, name, card.answer)
    monkeypatch.setattr(management, "current_loaded_models", [])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: GPU.index)
    for name in ("synchronize", "set_device"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.nn.Module, "to", move_module)
    return card


def move_module(module: torch.nn.Module, device: torch.device, *_, **__) -> torch.nn.Module:
    """PyTorch's own `to` cannot move parameters that are fake."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(parameter.to(device), False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer.to(device)
    return module


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

        def count_waits(*_: object) -> None:
            waits.append((len(recorded.reads), len(recorded.copies)))

        sample(host, model, checkpoint, steps=4, cfg=cfg, callback=count_waits)
    assert len(waits) == 4 and len(set(waits)) == 1
    assert len(recorded.reads) == 5
    assert recorded.float64 == []


def apply_to_loaded(host, checkpoint):
    adapters = host.module("nodes.host.adapter")
    unet = host.module("nodes.host.load_checkpoint").load_unet(checkpoint, "fp16")
    adapter = adapters.load_adapter(checkpoint, torch.float16)
    assert unet.load_device == adapter.load_device == GPU
    return apply(host, unet, (unet, adapters.StableVITON(adapter, None, checkpoint.config)))


def sample(host, model, checkpoint, steps: int, cfg: float, callback=None) -> None:
    """PLMS, with conditioning and latent on the CPU, where the host keeps them."""
    (sigmas,) = host.node("StableVITONSchedule", model=model, steps=steps)
    (sampler,) = host.node("StableVITONPLMS")
    module, shape = host.module("nodes.host.model"), (1, 4, 16, 12)
    latents = {key: torch.empty(shape) for key in (*module.CONCATENATED, module.GARMENT)}
    latents[module.KEEP] = torch.empty(1, 1, 16, 12)
    context = torch.empty(1, 1, checkpoint.config.network.context_dim)
    noise, start = torch.empty(shape), torch.empty(shape)
    inputs = (sampler, sigmas, [[context, latents]], [[context, latents]], start)
    result = comfy.sample.sample_custom(
        model, noise, cfg, *inputs, callback=callback, disable_pbar=True
    )
    assert (result.device.type, tuple(result.shape)) == ("cpu", shape)


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


@pytest.mark.parametrize(
    ("state", "megabytes", "loaded"),
    [
        ("NORMAL_VRAM", 8192, "all"),
        ("NORMAL_VRAM", 1260, "some"),
        ("LOW_VRAM", 1260, "some"),
        ("NO_VRAM", 8192, "none"),
    ],
)
def test_weights_that_do_not_fit_come_for_each_layer(
    host, gpu, checkpoint, monkeypatch, state, megabytes, loaded
):
    management = comfy.model_management
    monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
    gpu.memory = megabytes * 2**20
    with fake_gpu([1, 501, 1]), torch.no_grad():
        model = apply_to_loaded(host, checkpoint)
        sample(host, model, checkpoint, steps=2, cfg=2.0)
        patchers = [model, *model.get_nested_additional_models()]
        share = sum(p.loaded_size() for p in patchers) / sum(p.model_size() for p in patchers)
    assert {"all": share == 1, "some": 0 < share < 1, "none": share == 0}[loaded]
