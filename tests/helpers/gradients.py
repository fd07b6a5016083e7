"""Run by accelerate: the gradients of a tiny run's first step, averaged over the processes.

accelerate launch ... gradients.py INPUTS OUTPUT BATCH_SIZE
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from accelerate import Accelerator  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from helpers.training import tiny_config  # noqa: E402
from stableviton_core.training.trainer import train  # noqa: E402


def main(inputs: Path, output: Path, size: int) -> None:
    config = tiny_config(
        inputs,
        output,
        train_batch_size=size,
        max_train_steps=1,
        checkpointing_steps=1,
        max_grad_norm=1e9,
    )
    clip_grad_norm, gradients = Accelerator.clip_grad_norm_, {}

    def record(self: Accelerator, parameters: list, norm: float) -> object:
        assert all(p.grad is not None for p in parameters), "DDP waits for a gradient of each"
        gradients.update({str(i): p.grad.clone().contiguous() for i, p in enumerate(parameters)})
        return clip_grad_norm(self, parameters, norm)

    Accelerator.clip_grad_norm_ = record
    train(config)
    if Accelerator().is_main_process:
        save_file(gradients, output / "gradients.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
