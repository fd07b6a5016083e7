"""The network inside ComfyUI against the authors' outputs."""

import pytest
import torch

from helpers.golden import CASES, REDUCED, error, golden_inputs, read_golden
from helpers.host import predict_noise


@pytest.mark.parametrize("case", CASES)
def test_patched_host_model_is_the_authors(host, loaded, case):
    model, stableviton, _, _ = loaded
    (patched,) = host.node(
        "StableVITONApply",
        model=model,
        stableviton=stableviton,
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    batch, rows, columns, steps = CASES[case]
    x, garment, context = golden_inputs(case, batch, rows, columns, REDUCED.context_dim)
    eps = predict_noise(patched, x, torch.tensor(steps), context, garment)
    assert error(eps, read_golden("reduced")[f"{case}/eps"]) <= 1e-4
