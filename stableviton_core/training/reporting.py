"""What a run says: how it is set up, the progress of its steps, and TensorBoard's scalars."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from accelerate import Accelerator
from tqdm import tqdm

from .config import TrainConfig

LOGS = "logs"  # in the run's output


@dataclass(frozen=True)
class StepResult:
    """terms: of the loss by name, means over the joint batch. gradient_norm: before clipping, of
    the joint batch. seconds: of the whole step."""

    terms: Mapping[str, float]
    gradient_norm: float
    seconds: float

    @property
    def loss(self) -> float:
        return sum(self.terms.values())


def describe_setup(accelerator: Accelerator, config: TrainConfig, joint_batch_size: int) -> str:
    """Processes, devices, precision and batch, one line; and a line for each setting without
    effect."""
    count = accelerator.num_processes
    batch = f"{count} x {config.train_batch_size} x {config.gradient_accumulation_steps}"
    lines = [
        f"{count} process{'es' * (count > 1)} ({accelerator.distributed_type.value}) on "
        f"{accelerator.device.type}, mixed precision {config.mixed_precision}; joint batch of "
        f"{joint_batch_size} pairs: processes x train_batch_size x accumulation steps = {batch}"
    ]
    warmup, steps = config.lr_warmup_steps, config.max_train_steps
    if warmup and config.lr_scheduler == "constant":
        lines.append(
            "note: lr_scheduler constant has no warm-up, so lr_warmup_steps is without effect; "
            "constant_with_warmup has one"
        )
    elif warmup >= steps:
        lines.append(
            f"note: lr_warmup_steps is {warmup} of {steps} steps, so the learning rate never "
            f"reaches {config.learning_rate:g}"
        )
    return "\n".join(lines)


class StepReporter:
    """A progress bar and TensorBoard's scalars, in the main process."""

    def __init__(
        self, accelerator: Accelerator, step: int, max_train_steps: int, joint_batch_size: int
    ):
        """step: steps done before. What a killed run logged after its last checkpoint is logged
        again, so readers are told to forget it."""
        self.accelerator, self.joint_batch_size = accelerator, joint_batch_size
        accelerator.init_trackers(LOGS, init_kwargs={"tensorboard": {"purge_step": step + 1}})
        self.bar = tqdm(
            total=max_train_steps,
            initial=step,
            desc="training",
            unit="step",
            mininterval=1,
            disable=not accelerator.is_main_process,
        )

    def __enter__(self) -> "StepReporter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.close()
        if kind is None:  # after a failure, the other processes may not come along
            self.accelerator.end_training()

    def report(self, step: int, result: StepResult, learning_rate: float) -> None:
        speed = self.joint_batch_size / result.seconds
        scalars = {f"loss/{name}": value for name, value in result.terms.items()}
        scalars |= {"loss": result.loss, "learning_rate": learning_rate}
        scalars["samples_per_second"] = speed
        if math.isfinite(result.gradient_norm):  # fp16 skips steps where it is not
            scalars["gradient_norm"] = result.gradient_norm
        self.accelerator.log(scalars, step=step)
        self.bar.update()
        self.bar.set_postfix(
            loss=f"{result.loss:.4f}",
            lr=f"{learning_rate:.1e}",
            samples_per_second=f"{speed:.1f}",
            refresh=False,
        )
