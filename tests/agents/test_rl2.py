"""RL²: its network against torch's own, its forward pass against its rollouts, its advantages against a plain loop."""

from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Discrete
from torch.utils import _pytree as pytree

from metarl.agents.learner import MetaBatch
from metarl.agents.policies.memory.base import RecurrentConfig
from metarl.agents.policies.parameters import flatten
from metarl.agents.rl2 import RL2, RL2Config, Trials, trial_advantages
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes
from metarl.envs.spaces.observation import FlatImage
from metarl.envs.task_distribution import TaskDistribution
from metarl.evaluation.adaptation import adapt_to_tasks
from tests.helpers.agent_builders import perturb, seeded

TRIAL = 3
NETWORKS = {
    "plain": RecurrentConfig(8, (5,)),
    "observation again": RecurrentConfig(8, observation_again=True),
    "hypernetwork": RecurrentConfig(8, (4,), hypernetwork=True, embedding_size=3),
    "separate": RecurrentConfig(8, separate_networks=True),
    "fast weights": RecurrentConfig(8, (4,), cell="fast-weights", memory_steps=5),
    "lstm": RecurrentConfig(8, (4,), hypernetwork=True, embedding_size=3, cell="lstm"),
}
ENVS = {"ends early": "cart-pole/mirrored", "continuous": "point-navigation/finn", "several choices": "grid-navigation"}


def made(env: str, network: str = "plain", **changes: object) -> tuple[RL2, TaskDistribution]:
    """A learner whose parameters are no longer the initial ones, and an environment of 6 steps."""
    distribution = make_distribution(ENVS.get(env, env))
    distribution.env.horizon = 6
    config = RL2Config(policy=NETWORKS[network], trial_episodes=TRIAL, **changes)  # type: ignore[arg-type]
    learner = RL2(distribution.observation_space, distribution.action_space, config, seeded(0))
    perturb(learner, 0.3, seeded(1))
    return learner, distribution


def trials_of(learner: RL2, distribution: TaskDistribution, seed: int = 2) -> list[Episodes]:
    """The episodes 1 … n of 2 trials of each of 4 tasks."""
    tasks = distribution.sample(4, "train", seeded(seed))
    batches = adapt_to_tasks(learner, distribution, tasks, TRIAL - 1, 2, seeded(seed)).batches
    assert len(batches) == TRIAL
    return batches


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("env", ENVS)
def test_the_forward_pass_reproduces_the_log_probabilities_of_the_rollouts(env: str, network: str) -> None:
    learner, distribution = made(env, network)
    if env == "ends early":
        distribution.env.horizon = 40
    trials = Trials.of(trials_of(learner, distribution))
    assert bool(trials.mask.all()) == (env != "ends early")

    acted = learner.policy.distribution(trials.behaviour).log_prob(trials.action)
    again, _ = learner.policy.unroll(learner.params, trials.obs, trials.action, trials.reward, trials.begins)
    difference = (again.log_prob(trials.action) - acted) * trials.mask
    assert float(difference.abs().max()) < 1e-5
    assert float(acted.std()) > 0


def test_the_memory_counts_a_trial_begins_with_none_of_it() -> None:
    learner, distribution = made("continuous")
    tasks = {name: leaf[:1].expand(4, *leaf.shape[1:]) for name, leaf in distribution.sample(4, "test").items()}
    batches = adapt_to_tasks(learner, distribution, tasks, 1, 2, seeded(3)).batches
    first, second = (batch.behaviour["mean"][:, :, 0] for batch in batches)
    torch.testing.assert_close(first, first[:1, :1].expand_as(first))  # the same start, and nothing remembered
    assert not torch.allclose(second[0, 0], second[0, 1])  # each trial has its own memory
    assert not torch.allclose(second[0, 0], second[1, 0])


def test_permuting_the_trials_changes_nothing() -> None:
    learner, distribution = made("ends early", minibatches=1, outer_epochs=1)
    batches = trials_of(learner, distribution)
    order = torch.tensor([2, 0, 3, 1])
    permuted = [batch.tasks(order) for batch in batches]
    states = []
    for some in (batches, permuted):
        one, _ = made("ends early", minibatches=1, outer_epochs=1)
        one.update(MetaBatch(some[:-1], some[-1]))
        states.append(flatten(one.optimizer.parameters.values()))
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-5)
    assert not torch.equal(states[0], flatten(learner.optimizer.parameters.values()))


def test_the_recurrent_unit_is_the_one_of_torch_and_no_gradient_passes_a_truncation() -> None:
    learner, distribution = made("continuous")
    trials = Trials.of(trials_of(learner, distribution))
    policy, params = learner.policy, learner.params
    cell = torch.nn.GRUCell(policy.num_inputs, 8)
    for own_name, name in (("input", "ih"), ("memory", "hh")):
        getattr(cell, f"weight_{name}").data = params[f"policy.gru.{own_name}.weight"].T.clone()
        getattr(cell, f"bias_{name}").data = params[f"policy.gru.{own_name}.bias"].clone()

    # What it saw before the first step and after each: nothing, then its own action and reward.
    hidden = torch.zeros(len(trials.obs), 8)
    last = torch.zeros(len(trials.obs), policy.num_outputs + 1)
    for time in range(trials.obs.shape[1]):
        seen = torch.cat([trials.obs[:, time], last, trials.begins[:, time, None]], dim=1)
        hidden = cell(seen, hidden)
        last = torch.cat([trials.action[:, time], trials.reward[:, time, None]], dim=1)
    head = torch.tanh(hidden @ params["policy.layer0.weight"] + params["policy.layer0.bias"])
    mean = head @ params["policy.layer1.weight"] + params["policy.layer1.bias"]

    sequence = (trials.obs, trials.action, trials.reward, trials.begins)
    ours, _ = policy.unroll(params, *sequence)
    torch.testing.assert_close(ours.parameters()["mean"][:, -1], mean, rtol=1e-4, atol=1e-5)

    obs = trials.obs.clone().requires_grad_()
    truncated, _ = policy.unroll(params, obs, *sequence[1:], truncation=6)
    (gradient,) = torch.autograd.grad(truncated.parameters()["mean"][:, -1].sum(), obs)
    assert not bool(gradient[:, :12].any())
    assert bool(gradient[:, 12:].any())


def test_a_hypernetwork_begins_as_ordinary_heads_whatever_is_remembered() -> None:
    distribution = make_distribution(ENVS["continuous"])
    config = RL2Config(policy=NETWORKS["hypernetwork"])
    learner = RL2(distribution.observation_space, distribution.action_space, config, seeded(0))
    policy, params, obs = learner.policy, learner.params, torch.randn(5, 2, generator=seeded(1))
    acting, memory = policy.apply(params, obs)
    elsewhere = pytree.tree_map(lambda leaf: leaf + torch.randn(leaf.shape, generator=seeded(2)), memory)
    assert torch.equal(policy.apply(params, obs, elsewhere)[0].mode(), acting.mode())

    bias = params["policy.hypernetwork.bias"]
    first = torch.tanh(obs @ bias[:8].reshape(2, 4) + bias[8:12])
    torch.testing.assert_close(acting.mode(), first @ bias[12:20].reshape(4, 2) + bias[20:])


def test_advantages_are_those_of_a_plain_loop_over_the_whole_trial() -> None:
    reward, value = torch.randn(3, 7, generator=seeded(0)), torch.randn(3, 7, generator=seeded(1))
    lengths = [7, 4, 1]
    mask = (torch.arange(7) < torch.tensor(lengths)[:, None]).float()
    advantage, returns = trial_advantages(reward * mask, value, mask, gamma=0.9, gae_lambda=0.6)

    for trial, length in enumerate(lengths):
        for time in range(length):
            expected = 0.0
            for later in range(time, length):
                following = float(value[trial, later + 1]) if later + 1 < length else 0.0
                delta = float(reward[trial, later]) + 0.9 * following - float(value[trial, later])
                expected += (0.9 * 0.6) ** (later - time) * delta
            assert float(advantage[trial, time]) == pytest.approx(expected, abs=1e-5)
            assert float(returns[trial, time]) == pytest.approx(expected + float(value[trial, time]), abs=1e-5)
        assert not bool(advantage[trial, length:].any())


def test_the_unit_of_the_reward_makes_no_difference_after_the_first_update() -> None:
    learner, distribution = made("continuous")
    batches = trials_of(learner, distribution)
    scales = []
    for factor in (1.0, 1000.0):
        one, _ = made("continuous")
        scaled = [replace(batch, reward=factor * batch.reward) for batch in batches]
        one.update(MetaBatch(scaled[:-1], scaled[-1]))
        scales.append(float(one.params["reward_scale"]))
    rms = float(torch.cat([batch.reward for batch in batches]).square().mean().sqrt())
    assert scales == pytest.approx([rms, 1000 * rms], rel=1e-4)


def test_it_learns_to_stay_with_an_arm_that_pays() -> None:
    """Two arms of which one always pays: of 6 pulls chance earns 3, and the best player 5.5."""
    distribution = make_distribution("bandit/bernoulli/n10-k5")
    distribution.env.horizon = 6
    config = RL2Config(RecurrentConfig(16), trial_episodes=1, outer_lr=0.02, outer_epochs=4, gae_lambda=0.3)
    learner = RL2(distribution.observation_space, distribution.action_space, config, seeded(0))
    generator = seeded(1)

    def episodes(trials: int) -> Episodes:
        best = torch.randint(2, (trials,), generator=generator)
        mean = torch.zeros(trials, 5)
        mean[torch.arange(trials), best] = 1.0
        return adapt_to_tasks(learner, distribution, {"mean": mean}, 0, 1, generator).batches[0]

    before = float(episodes(400).returns.mean())
    for _ in range(30):
        learner.update(MetaBatch([], episodes(200)))
    assert before < 2
    assert float(episodes(400).returns.mean()) > 4.5


def test_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no convolutions for images: train reptile or multitask"):
        RL2(FlatImage((36, 36, 3)), Discrete(2), RL2Config(), seeded(0))
