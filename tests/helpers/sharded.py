"""A run under FSDP in several CPU processes: sharded.py INPUTS OUTPUT BATCH_SIZE STEPS. It resumes
from a checkpoint of two steps where there is one.

accelerate allows FSDP on accelerators only, torch's FSDP also works on CPUs: the distributed type
is set to MULTI_GPU before accelerate looks for FSDP.
"""

import os
import sys
from pathlib import Path

os.environ |= {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}

from accelerate import PartialState
from accelerate.utils import DistributedType

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.training import tiny_config  # noqa: E402
from stableviton_core.training.trainer import train  # noqa: E402

inputs, output, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
changes = {
    "train_batch_size": batch,
    "use_ema": True,
    "validation_steps": 2,
    "num_validation_images": 2,
    "num_inference_steps": 2,
    "adam_epsilon": 1.0,
    "learning_rate": 1.0,
    "max_grad_norm": 1e9,
}
if (output / "checkpoint-00000002").exists():
    changes["resume_from_checkpoint"] = "latest"
train(tiny_config(inputs, output, **changes, max_train_steps=int(sys.argv[4])))
