"""The host's node for torch.compile."""

import pytest
import torch

from helpers.golden import CASES, REDUCED, error, golden_inputs, read_golden
from helpers.host import apply, predict_noise


@pytest.mark.slow  # compiling takes minutes on 2 cores
def test_a_compiled_model_gives_the_authors_numbers(host, loaded):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    (compiled,) = TorchCompileModel.execute(apply(host, loaded[0], loaded), "inductor").result
    batch, rows, columns, steps = CASES["c"]
    x, garment, context = golden_inputs("c", batch, rows, columns, REDUCED.context_dim)
    eps = predict_noise(compiled, x, torch.tensor(steps), context, garment)
    assert error(eps, read_golden("reduced")["c/eps"]) <= 1e-4
