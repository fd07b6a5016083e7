"""The demo checkpoint from nothing: an autoencoder, then the network, on paper dolls."""

from pathlib import Path

from . import demo_autoencoder
from .demo_network import train_network


def train_demo(output: Path, resume: bool) -> None:
    """Writes `stableviton-demo.safetensors` and sheets of unseen pairs into a folder. An
    `autoencoder.safetensors` that lies there is used instead of a new one; resume: a checkpoint
    that lies there is trained on with the last phase."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "autoencoder.safetensors").exists():
        demo_autoencoder.train(output)
    train_network(output, resume)
