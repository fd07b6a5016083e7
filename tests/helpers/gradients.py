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
from stableviton_core.training import trainer  # noqa: E402


def main(inputs: Path, output: Path, size: int) -> None:
    config = tiny_config(
        inputs,
        output,
        train_batch_size=size,
        max_train_steps=1,
        checkpointing_steps=1,
        max_grad_norm=1e9,
    )
    step, found = trainer.Accelerator.clip_grad_norm_, {}

    def keep(self: Accelerator, parameters: list, norm: float) -> object:
        found.update(enumerate(p.grad.clone() for p in parameters if p.grad is not None))
        return step(self, parameters, norm)

    trainer.Accelerator.clip_grad_norm_ = keep
    trainer.train(config)
    if Accelerator().is_main_process:
        save_file(
            {str(index): value.contiguous() for index, value in found.items()},
            output / "gradients.safetensors",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
