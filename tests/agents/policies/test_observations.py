"""Statistics of observations against numpy, and that a policy with them is the policy on normalised observations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metarl.agents.gradients.adaptation_path import ObjectiveAt
from metarl.agents.gradients.objectives import Batch, likelihood_ratio
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.observations import CLIP, ObservationNormalizer
from metarl.agents.policies.parameters import expand_to_tasks
from metarl.envs.rollout import Episodes
from tests.helpers.agent_builders import make_policy, random_episodes, seeded


def episodes_in_units(policy: MLPPolicy, seed: int) -> Episodes:
    """Random episodes; one sensor reports thousands around an offset, the other thousandths."""
    episodes = random_episodes(policy, policy.init(seeded(seed)), seeded(seed))
    scaled = episodes.obs * torch.tensor([3000.0, 0.002]) + torch.tensor([-500.0, 0.01])
    return replace(episodes, obs=scaled * episodes.mask.unsqueeze(-1))


def taken(*batches: Episodes) -> np.ndarray:
    """Observations of the steps really taken, (N, O)."""
    return np.concatenate([batch.obs[batch.mask > 0].double().numpy() for batch in batches])


def test_statistics_are_those_of_all_that_was_seen() -> None:
    policy = make_policy("gaussian")
    batches = [episodes_in_units(policy, seed) for seed in range(4)]
    normalizer = ObservationNormalizer(2)
    normalizer.activate()
    normalizer.merge(normalizer.moments(batches[:1]))
    normalizer.merge(normalizer.moments(batches[1:3]))

    # Two processes: the sum of their moments is merged.
    halves = [batches[3].tasks(slice(0, 1)), batches[3].tasks(slice(1, 3))]
    normalizer.merge(sum(normalizer.moments([half]) for half in halves))  # type: ignore[arg-type]

    seen = taken(*batches)
    assert normalizer.count == len(seen)
    expected = (seen - seen.mean(axis=0)) / seen.std(axis=0)
    np.testing.assert_allclose(normalizer(torch.tensor(seen)).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_it_hands_on_what_it_gets_until_it_has_seen_something() -> None:
    obs = 100 * torch.randn(5, 2, generator=seeded(0))
    normalizer = ObservationNormalizer(2)
    assert normalizer(obs) is obs
    assert normalizer.state_dict() == {}
    normalizer.activate()
    assert torch.equal(normalizer(obs), obs)


def test_outliers_are_clipped_and_what_never_varies_is_not_scaled() -> None:
    policy = make_policy("gaussian")
    episodes = episodes_in_units(policy, 0)
    steady = episodes.obs.clone()
    steady[..., 1] = 7.25
    normalizer = ObservationNormalizer(2)
    normalizer.activate()
    normalizer.merge(normalizer.moments([replace(episodes, obs=steady * episodes.mask.unsqueeze(-1))]))
    assert normalizer(torch.tensor([1e9, 7.25])).tolist() == [CLIP, 0.0]
    assert normalizer(torch.tensor([-1e9, 7.5])).tolist() == [-CLIP, 0.25]


def test_the_state_goes_on_exactly() -> None:
    policy = make_policy("gaussian")
    first, second = episodes_in_units(policy, 0), episodes_in_units(policy, 1)
    normalizer, other = ObservationNormalizer(2), ObservationNormalizer(2)
    normalizer.activate()
    normalizer.merge(normalizer.moments([first]))
    other.load_state_dict(normalizer.state_dict())
    for one in (normalizer, other):
        one.merge(one.moments([second]))
    assert torch.equal(normalizer(second.obs), other(second.obs))

    other.load_state_dict({})
    assert other(second.obs) is second.obs
    with pytest.raises(ValueError, match="of 2 observations, not of 3"):
        ObservationNormalizer(3).load_state_dict(normalizer.state_dict())


def test_a_policy_that_normalises_is_the_policy_on_normalised_observations() -> None:
    """What it does, its gradient, and the baseline's advantages."""
    plain, policy = make_policy("gaussian"), make_policy("gaussian")
    params = expand_to_tasks(policy.init(seeded(0)), 3)
    episodes = episodes_in_units(policy, 0)
    policy.observations.activate()
    policy.observations.merge(policy.observations.moments([episodes]))
    seen = replace(episodes, obs=policy.observations(episodes.obs))

    torch.testing.assert_close(policy.apply(params, episodes.obs)[0].mean, plain.apply(params, seen.obs)[0].mean)  # type: ignore[union-attr]
    batch, expected = Batch.of(policy, episodes, 0.9, 0.8), Batch.of(plain, seen, 0.9, 0.8)
    torch.testing.assert_close(batch.advantage, expected.advantage)
    gradient = ObjectiveAt(policy, params, batch, likelihood_ratio).gradient
    torch.testing.assert_close(gradient, ObjectiveAt(plain, params, expected, likelihood_ratio).gradient)
