"""The range of every numeric setting of a training, in one table. Imports nothing heavy, for the
command line's help."""

import math
from dataclasses import dataclass, fields
from typing import Any

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; above or below: that end is not allowed itself.
    multiple: of which number, beside that."""

    low: float = 0
    high: float = math.inf
    above: bool = False
    below: bool = False
    multiple: int = 1

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        from_low = value > self.low if self.above else value >= self.low
        to_high = value < self.high if self.below else value <= self.high
        return from_low and to_high and (self.multiple == 1 or value % self.multiple == 0)

    def __str__(self) -> str:
        kind = f"a multiple of {self.multiple}, " if self.multiple > 1 else ""
        low = f"{'above' if self.above else 'at least'} {self.low:.15g}"
        high = f" and {'below' if self.below else 'at most'} {self.high:.15g}"
        return f"{kind}{low}{high if math.isfinite(self.high) else ''}"


COUNT = Range(low=1)
POSITIVE = Range(above=True)
NON_NEGATIVE = Range()
FRACTION = Range(high=1)
DECAY = Range(high=1, below=True)
SIDE = Range(low=8, multiple=8)
STEPS = Range(low=1, high=1000)  # timesteps of the noise schedule

RANGES: dict[str, Range] = {
    "height": SIDE,
    "width": SIDE,
    "seed": Range(high=MAX_SEED),
    "train_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "max_train_steps": COUNT,
    "learning_rate": NON_NEGATIVE,
    "lr_warmup_steps": NON_NEGATIVE,
    "adam_beta1": DECAY,
    "adam_beta2": DECAY,
    "adam_weight_decay": NON_NEGATIVE,
    "adam_epsilon": POSITIVE,
    "max_grad_norm": POSITIVE,
    "lora_rank": NON_NEGATIVE,
    "lora_alpha": POSITIVE,
    "cond_drop_prob": FRACTION,
    "atv_weight": NON_NEGATIVE,
    "atv_blocks": NON_NEGATIVE,
    "correspondence_weight": NON_NEGATIVE,
    "correspondence_blocks": NON_NEGATIVE,
    "cache_variants": COUNT,
    "dataloader_num_workers": NON_NEGATIVE,
    "ema_decay": DECAY,
    "checkpointing_steps": COUNT,
    "checkpoints_total_limit": COUNT,
    "validation_steps": NON_NEGATIVE,
    "num_validation_images": COUNT,
    "num_inference_steps": STEPS,
    "validation_guidance": NON_NEGATIVE,
    "l1_weight": NON_NEGATIVE,
    "lpips_weight": NON_NEGATIVE,
    "kl_weight": NON_NEGATIVE,
}


def check_ranges(config: Any) -> None:
    """ValueError that lists every numeric field of a dataclass outside its range; the items of a
    tuple each. None is allowed where the field is."""
    problems = []
    for field in fields(config):
        allowed, value = RANGES.get(field.name), getattr(config, field.name)
        values = value if isinstance(value, tuple) else (value,)
        if allowed and any(v is not None and v not in allowed for v in values):
            problems.append(f"{field.name} must be {allowed}, got {value}")
    if problems:
        raise ValueError("; ".join(problems))
