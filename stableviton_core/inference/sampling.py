"""Try-ons of the model, sampled as latents: PLMS as the released inference script, DDIM as the
released validation."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..model.tryon_model import TryOnModel
from ..plms import ddim_step, plms_timesteps, sample_plms
from ..schedule import alphas_cumprod, start_code
from .config import Start
from .encoding import Latents, concat_network_input


def draw_noise(names: Sequence[str], shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise B x C x h x w float32 on the CPU, one item a name. shape: C, h, w.

    An item is a function of seed and name only, so that a result depends on neither its batch nor
    its place in it.
    """
    items = []
    for name in names:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        items.append(torch.randn(tuple(shape), generator=generator))
    return torch.stack(items)


def make_noise_predictor(
    model: TryOnModel, batch: Latents, guidance: float = 1.0
) -> Callable[[Tensor, int], Tensor]:
    """The function (x B x 4 x h x w, timestep) -> predicted noise, conditioned on a batch.

    guidance: s of e = e_u + s (e_c - e_u), where e_u has the learned vector as its context and
    everything else unchanged. Both are made in one pass; 1 makes e_c alone.
    """
    guided = guidance != 1
    inputs = batch.repeat(2) if guided else batch
    drop = torch.zeros(len(inputs), dtype=torch.bool, device=batch.person.device)
    drop[len(batch) :] = True

    def predict_noise(x: Tensor, t: int) -> Tensor:
        noisy = torch.cat([x, x]) if guided else x
        noise = model(
            x=concat_network_input(noisy.to(batch.person.dtype), inputs),
            timesteps=torch.full((len(noisy),), t, device=x.device),
            garment=inputs.garment,
            drop_mask=drop,
            embedding=inputs.embedding,
            garment_image=inputs.garment_image,
        ).to(x.dtype)
        if not guided:
            return noise
        conditional, unconditional = noise.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return predict_noise


@torch.no_grad()
def sample_tryon(
    model: TryOnModel,
    batch: Latents,
    noise: Tensor,
    steps: int = 50,
    guidance: float = 1.0,
    start: Start = "noised",
    report_step: Callable[[], object] | None = None,
) -> Tensor:
    """PLMS -> scaled latents B x 4 x h x w float32.

    noise: B x 4 x h x w, see `draw_noise`. start: "noised" as released, from the latent of the
    person noised to the last timestep; "noise" from noise alone. report_step: called after a step.
    """
    noise = noise.to(batch.person.device, torch.float32)
    x = noise if start == "noise" else start_code(batch.person.float(), noise)
    predict_noise = make_noise_predictor(model, batch, guidance)

    def report(*_: object) -> None:
        if report_step is not None:
            report_step()

    return sample_plms(predict_noise, x, plms_timesteps(steps), report)


@torch.no_grad()
def sample_ddim(
    model: TryOnModel, batch: Latents, noise: Tensor, steps: int = 50, guidance: float = 5.0
) -> Tensor:
    """DDIM with eta = 0 from noise alone, at the timesteps of PLMS, as the released validation ->
    scaled latents B x 4 x h x w float32. noise: as `sample_tryon`'s."""
    x = noise.to(batch.person.device, torch.float32)
    abar = alphas_cumprod().to(x.device, torch.float32)
    predict_noise = make_noise_predictor(model, batch, guidance)
    timesteps = plms_timesteps(steps)
    for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
        x = ddim_step(x, predict_noise(x, t), abar[t], abar[following])
    return x
