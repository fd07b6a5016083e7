"""Memory of a full-size training step: an estimate, and one measurement on the CPU beside it.

    python benchmarks/train_memory.py [--measure]

The estimate needs no GPU and no memory: it runs the forward pass on tensors without data
(FakeTensorMode) that stand for those of a CUDA GPU, so that autocast decides as it does there, with
the attention kernels of a GPU. Its terms:

- weights: everything that a run with cached latents holds, CLIP included, the VAE not. Trained ones
  in fp32, frozen ones in fp16 with autocast;
- gradients: 4 bytes a trained parameter; optimizer: 8 (AdamW), 2 (adamw_8bit);
- activations: what autograd saves for the backward pass (saved_tensors_hooks), each storage once,
  without weights. The fp16 copies that autocast makes of trained weights are among them. With
  gradient checkpointing these copies live until the forward pass ends; after it a block at a time
  saves its activations when it runs again. The larger of both counts.

The sum is reached in the second and later passes of a step with gradient accumulation; without, it
is an upper bound, for gradients appear while activations are freed. What comes on top: results that
an operation needs only while it runs, the libraries, the allocator's gaps, with several processes
the buffers of DDP. EMA and validation are not in it, nor the VAE of a run without cached latents.

--measure trains the released size on the CPU in fp32, batch 1, with AdamW (16 GB), in a process of
its own, and prints its peak resident memory beside the estimate of the same step.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from process_memory import read_memory, read_peak_memory
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from train_step import cast_frozen, make_latents, train_encoder  # noqa: E402

from stableviton_core.inference.encoding import Latents, concat_network_input  # noqa: E402
from stableviton_core.model.config import ModelConfig  # noqa: E402
from stableviton_core.model.layers import (  # noqa: E402
    CrossAttention,
    ResBlock,
    SpatialTransformer,
    enable_gradient_checkpointing,
    split_heads,
)
from stableviton_core.model.tryon_model import TryOnModel  # noqa: E402
from stableviton_core.training.config import TrainConfig  # noqa: E402
from stableviton_core.training.losses import (  # noqa: E402
    TimestepsAndNoise,
    make_model_inputs,
    noise_loss,
    sample_timesteps_and_noise,
)
from stableviton_core.training.trainable_parameters import choose_trainable  # noqa: E402

SIZES = ((512, 384, (1, 4, 8, 32)), (1024, 768, (1,)))  # height, width, batch sizes
GRADIENT_BYTES = 4
COPY_BYTES = 2  # of autocast's copies of trained weights
GB = 1e9


@dataclass(frozen=True)
class Setting:
    """A way to train. state_bytes: of the optimizer, for each trained parameter."""

    name: str
    half: bool
    checkpointing: bool = False
    state_bytes: int = 8


SETTINGS = (
    Setting("fp32", half=False),
    Setting("fp16", half=True),
    Setting("fp16, gradient checkpointing", half=True, checkpointing=True),
    Setting("the same, adamw_8bit", half=True, checkpointing=True, state_bytes=2),
)


@dataclass(frozen=True)
class Estimate:
    """Bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def sum(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


class SavedTensors:
    """Within its block, the storages that autograd saves, apart from those of a module."""

    def __init__(self, module: nn.Module):
        self.known = {StorageWeakRef(p.untyped_storage()) for p in module.parameters()}
        self.sizes: dict[StorageWeakRef, int] = {}
        self.hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self.known:
            self.sizes[reference] = storage.nbytes()
        return tensor

    def count_bytes(self) -> int:
        """Of those that are still there."""
        return sum(size for reference, size in self.sizes.items() if not reference.expired())


def attend_on_gpu(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """`layers.attend` by the kernel that a CUDA GPU takes: Flash in fp16, memory-efficient in fp32.
    Named here, for without a GPU PyTorch would take another one."""
    q, k, v = (split_heads(x, num_heads) for x in (q, k, v))
    if q.dtype == torch.float32:
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        result = kernel(q, k, v, None, compute_log_sumexp=True)[0]
    else:
        result = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return result.transpose(1, 2).flatten(2)


@contextmanager
def cuda_autocast(enabled: bool) -> Iterator[None]:
    """torch.autocast("cuda", torch.float16), also where there is no GPU."""
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def estimate(
    setting: Setting, height: int, width: int, batch: int, encoder_gradient: bool
) -> Estimate:
    """encoder_gradient: also run the UNet's encoder with gradient."""
    with FakeTensorMode(), torch.device("cuda"):
        model = TryOnModel(ModelConfig())
        choose_trainable(model, TrainConfig.train_patterns)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if encoder_gradient:
            train_encoder(model)
        half = torch.float16 if setting.half else torch.float32
        cast_frozen(model, half)
        for module in model.modules():
            if isinstance(module, CrossAttention):
                module.attention = attend_on_gpu
        latents = make_latents(ModelConfig(), batch, height, width)
        temporary = 0
        if setting.checkpointing:
            block = find_largest_block(model, latents, setting.half)
            temporary = max(block, COPY_BYTES * trained if setting.half else 0)
            enable_gradient_checkpointing(model)
        saved = SavedTensors(model)
        with saved.hooks:
            loss = compute_fake_loss(model, latents, setting.half)
        activations = saved.count_bytes() + temporary
        del loss
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Estimate(weights, GRADIENT_BYTES * trained, setting.state_bytes * trained, activations)


def compute_fake_loss(model: TryOnModel, latents: Latents, half: bool) -> Tensor:
    timesteps = torch.zeros(len(latents), dtype=torch.long)
    dropped = torch.zeros(len(latents), dtype=torch.bool)
    sampled = TimestepsAndNoise(timesteps, torch.randn(latents.person.shape), dropped)
    x = concat_network_input(latents.person, latents)  # add_noise would keep a fake noise schedule
    with cuda_autocast(half):
        prediction = model(x, timesteps, latents.garment, dropped, latents.embedding)
        return noise_loss(prediction, sampled)


def find_largest_block(model: TryOnModel, latents: Latents, half: bool) -> int:
    """Bytes of the most that a block under gradient checkpointing saves when it runs again."""
    saved = SavedTensors(model)
    before: list[int] = []
    largest = 0

    def enter(*_: object) -> None:
        before.append(saved.count_bytes())

    def leave(*_: object) -> None:
        nonlocal largest
        largest = max(largest, saved.count_bytes() - before.pop())

    handles = [
        handle
        for module in model.modules()
        if isinstance(module, ResBlock | SpatialTransformer)
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    with saved.hooks:
        compute_fake_loss(model, latents, half)
    for handle in handles:
        handle.remove()
    return largest


def measure_step() -> dict[str, float]:
    """Resident bytes before there is a network, and their peak in two passes of training: the
    second has gradients and the optimizer's state of the first."""
    start = read_memory()
    torch.manual_seed(0)
    model = TryOnModel(ModelConfig())
    choose_trainable(model, TrainConfig.train_patterns)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    latents = make_latents(ModelConfig(), 1)
    for step in range(2):
        sampled = sample_timesteps_and_noise(0, step, latents.person.shape, 0.2)
        noise_loss(model(**make_model_inputs(latents, sampled)), sampled).backward()
        if step == 0:
            optimizer.step()
    return {"start": start, "peak": read_peak_memory()}


def print_estimates() -> None:
    columns = ("weights", "gradients", "optimizer", "activations", "sum")
    before = ("activations before", "sum before", "measured on a GPU")
    header = ["setting", "size", "batch", *(f"{name}, GB" for name in columns), *before]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for setting in SETTINGS:
        for height, width, batches in SIZES:
            for batch in batches:
                now, old = (estimate(setting, height, width, batch, flag) for flag in (False, True))
                values = [*(getattr(now, name) for name in columns), old.activations, old.sum]
                cells = [setting.name, f"{height} x {width}", str(batch)]
                cells += [f"{value / GB:.1f}" for value in values] + ["not measured"]
                print(f"| {' | '.join(cells)} |", flush=True)
    print("before: the UNet's encoder with gradient, as it ran until it was left out.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="also run a step on the CPU")
    parser.add_argument("--step", action="store_true", help="run only this step, and print JSON")
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure_step()))
        return
    if not arguments.measure:
        print_estimates()
        return
    command = [sys.executable, __file__, "--step"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    expected = estimate(SETTINGS[0], 512, 384, 1, encoder_gradient=False).sum
    grown = measured["peak"] - measured["start"]
    print(
        f"fp32, 512 x 384, batch 1, AdamW, on the CPU: peak {measured['peak'] / GB:.2f} GB "
        f"resident, {grown / GB:.2f} GB more than before the network; estimate "
        f"{expected / GB:.2f} GB ({grown / expected - 1:+.1%})"
    )


if __name__ == "__main__":
    main()
