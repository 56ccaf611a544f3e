"""Adaptation by plain policy-gradient or PPO steps, against a loop over tasks, epochs and parameters."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.agents.fine_tuning import AdaptationConfig, PolicyGradientAdaptation
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, expand_to_tasks, map_parameters
from metarl.envs.rollout import Episodes
from tests.helpers.agent_builders import make_policy, random_episodes, seeded
from tests.helpers.slow_maml import adapted_by_loop

pytestmark = pytest.mark.usefixtures("float64")

PLAIN = AdaptationConfig(inner_lr=0.5, inner_lr_decay=0.3, log_std_lr_factor=3.0, gamma=0.9, gae_lambda=0.8)
CONFIGS = {
    "policy gradient": PLAIN,
    "ppo": replace(PLAIN, inner_objective="ppo", inner_epochs=4, inner_clip=0.1),
}


def two_batches(policy: MLPPolicy, config: AdaptationConfig) -> tuple[Parameters, list[Episodes]]:
    """Parameters, and episodes of 3 tasks before and after one adaptation step."""
    adaptation = PolicyGradientAdaptation(policy, config)
    start = policy.init(seeded(0))
    params, batches = expand_to_tasks(start, 3), []
    for step in range(2):
        batches.append(random_episodes(policy, params, seeded(step)))
        params = adaptation.step(params, adaptation.batch(batches[-1]), step)
    return start, batches


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_steps_equal_the_loop_over_tasks(head: str, config: AdaptationConfig) -> None:
    policy = make_policy(head)
    start, batches = two_batches(policy, config)
    adaptation = PolicyGradientAdaptation(policy, config)
    params = expand_to_tasks(start, 3)
    for step, episodes in enumerate(batches):
        params = adaptation.step(params, adaptation.batch(episodes), step)
    assert not any(leaf.requires_grad for leaf in params.values())
    for task in range(3):
        expected = adapted_by_loop(config, start, batches, task)
        for name, leaf in expected.items():
            assert not torch.equal(leaf, start[name])
            torch.testing.assert_close(params[name][task], leaf, rtol=1e-9, atol=1e-11)


def test_a_factor_scales_the_rates_of_its_step() -> None:
    """Of one gradient step, exactly; steps beyond the factors take the last."""
    policy = make_policy("gaussian")
    start, batches = two_batches(policy, PLAIN)
    adaptation = PolicyGradientAdaptation(policy, PLAIN)
    params = expand_to_tasks(start, 3)
    batch = adaptation.batch(batches[0])
    whole, quarter = (adaptation.step(params, batch, 0, factor) for factor in (1.0, 0.25))
    for name, leaf in params.items():
        torch.testing.assert_close(quarter[name] - leaf, (whole[name] - leaf) / 4, rtol=1e-9, atol=1e-12)


def test_options_make_a_difference() -> None:
    policy = make_policy("gaussian")
    start, batches = two_batches(policy, PLAIN)

    def after_two_steps(config: AdaptationConfig) -> Tensor:
        params = adapted_by_loop(config, start, batches, task=0)
        return torch.cat([leaf.flatten() for leaf in params.values()])

    changes: list[dict[str, Any]] = [
        {},
        {"inner_lr": 0.4},
        {"inner_lr_decay": 1.0},
        {"log_std_lr_factor": 1.0},
        {"gamma": 1.0},
        {"gae_lambda": 1.0},
        {"inner_objective": "ppo", "inner_epochs": 2},
        {"inner_objective": "ppo", "inner_epochs": 4},
        {"inner_objective": "ppo", "inner_epochs": 4, "inner_clip": 0.01},
    ]
    results = torch.stack([after_two_steps(replace(PLAIN, **one)) for one in changes])
    assert float((torch.cdist(results, results) + torch.eye(len(changes))).min()) > 1e-3


def test_a_step_leaves_its_arguments_as_they_were() -> None:
    policy = make_policy("gaussian")
    adaptation = PolicyGradientAdaptation(policy, CONFIGS["ppo"])
    params = map_parameters(torch.clone, expand_to_tasks(policy.init(seeded(0)), 3))
    batch = adaptation.batch(random_episodes(policy, params, seeded(1)))
    before = map_parameters(torch.clone, params)
    adaptation.step(params, batch, 0)
    assert all(torch.equal(params[name], leaf) for name, leaf in before.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptation_steps": 0}, "adaptation_steps must be at least 1, got 0"),
        ({"inner_epochs": 0}, "inner_epochs must be at least 1, got 0"),
        ({"inner_lr": 0.0}, "inner_lr must be positive, got 0.0"),
        ({"inner_clip": -0.1}, "inner_clip must be positive, got -0.1"),
        ({"inner_objective": "sac"}, "inner_objective must be one of .*policy-gradient.*ppo.*, got 'sac'"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1, got 1.5"),
        ({"inner_lr_decay": float("inf")}, "inner_lr_decay must be finite, got inf"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptationConfig(**changes)
