import numpy as np
import pytest

from models.server_optimiser import Optimiser


@pytest.mark.parametrize("rule", ["averaging", "momentum", "adam"])
def test_every_rule_climbs_a_hill(rule):
    optimiser, x = Optimiser(rule, 0.1), np.array([3.0, -2.0])
    state = optimiser.start(2)
    for _ in range(400):
        step, state = optimiser.step(state, -(x - [1.0, 1.0]))
        x = x + step
    np.testing.assert_allclose(x, [1.0, 1.0], atol=0.02)


def test_the_first_step_of_adam_has_the_length_of_its_rate_in_every_coordinate():
    step, _ = Optimiser("adam", 0.05).step(Optimiser("adam", 0.05).start(3), np.array([1e-3, -5.0, 0.0]))
    np.testing.assert_allclose(step, [0.05, -0.05, 0.0], rtol=1e-4)


def test_adam_is_what_torch_computes():
    import torch

    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adam([x], lr=0.1, betas=(0.9, 0.99), eps=1e-8, maximize=True)
    optimiser, mine = Optimiser("adam", 0.1), x.detach().numpy().copy()
    state = optimiser.start(3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        update = rng.standard_normal(3)
        x.grad = torch.tensor(update)
        theirs.step()
        step, state = optimiser.step(state, update)
        mine = mine + step
    np.testing.assert_allclose(mine, x.detach().numpy(), rtol=1e-9)
