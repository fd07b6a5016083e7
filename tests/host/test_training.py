"""What the trainer writes, in the host: from the demo checkpoint to the node and back."""

from pathlib import Path

import pytest
import torch

from helpers.golden import error, fill
from helpers.host import predict_noise
from stableviton_core.model.pretrained import load_model
from stableviton_core.synthetic.write_dataset import write_dataset
from stableviton_core.training.checkpointing import WEIGHTS
from stableviton_core.training.config import TrainConfig
from stableviton_core.training.trainer import train

DEMO = Path(__file__).resolve().parents[2] / "demo" / "stableviton-demo.safetensors"


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory) -> Path:
    """The demo checkpoint after 20 more steps."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    write_dataset(folder / "data", 4, 1, 1, 64, seed=7)
    config = TrainConfig(
        data=folder / "data",
        init=DEMO,
        output=folder / "run",
        height=64,
        width=48,
        train_batch_size=2,
        max_train_steps=20,
        learning_rate=1e-3,
        cache_variants=2,
        validation_steps=0,
        save_dtype="fp32",
    )
    return train(config) / WEIGHTS


@torch.no_grad()
def test_a_fine_tuned_checkpoint_comes_back_through_the_node(host, fine_tuned):
    target = host.base / "models" / "stableviton" / "fine-tuned.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(fine_tuned.read_bytes())
    model, stableviton, _, _ = host.node(
        "StableVITONLoader", ckpt_name=target.name, weight_dtype="fp32"
    )
    (patched,) = host.node(
        "StableVITONApply",
        model=model,
        stableviton=stableviton,
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    trained, _, license = load_model(fine_tuned)
    config = trained.config.network
    x, garment = fill("tuned/x", (2, 13, 24, 18)), fill("tuned/garment", (2, 4, 24, 18))
    context, timesteps = fill("tuned/c", (2, 1, config.context_dim)), torch.tensor([951, 101])
    eps = predict_noise(patched, x, timesteps, context, garment)
    assert error(eps, trained.eval().network(x, timesteps, context, garment)) <= 1e-4
    before, _, _ = load_model(DEMO)
    assert error(before.eval().network(x, timesteps, context, garment), eps) > 1e-2
    assert license == "Apache-2.0"
