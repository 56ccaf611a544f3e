"""What every agent promises: each entry of the registry, and the example of a user's own, without being listed here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from metarl.agents.learner import Adapted, Agent, Learner, MetaBatch, Section
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import expand_to_tasks
from metarl.agents.registry import AGENTS
from metarl.agents.teachers import Teachers
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import BatchedEnv, Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.evaluation.adaptation import Adaptation, adapt_in, adapt_to_tasks
from metarl.training.meta_iteration import sample_iteration
from tests.helpers import own_agent
from tests.helpers.agent_builders import assert_same_state, seeded

NUM_TASKS = 3
EPISODES = 2
OWN = "a user's own"
OTHER_CELLS = ("lstm", "fast-weights")


@pytest.fixture(params=[*AGENTS, *OTHER_CELLS, OWN])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Agent:
    """Each agent in turn, and the one whose memory has other parts with other units."""
    if request.param in OTHER_CELLS:
        rl2 = AGENTS["rl2"]

        def make(observations: Any, actions: Any, config: Any, *rest: Any) -> Learner:
            config = replace(config, policy=replace(config.policy, cell=request.param))
            learner: Learner = rl2.make(observations, actions, config, *rest)
            return learner

        with_other_cell: Agent = replace(rl2, make=make)
        return with_other_cell
    return own_agent.load(tmp_path) if request.param == OWN else AGENTS[request.param]


class Lab:
    """Gives teachers to those who ask; a training would make them."""

    def __init__(self, distribution: TaskDistribution) -> None:
        self.distribution = distribution

    def teachers(self) -> tuple[Teachers, int]:
        """See metarl.agents.learner.Lab."""
        tasks = self.distribution.sample(NUM_TASKS, "train", seeded(9))
        policy = MLPPolicy(self.distribution.observation_space, self.distribution.action_space, PolicyConfig((4,)))
        return Teachers(policy, expand_to_tasks(policy.init(seeded(8)), NUM_TASKS), tasks), 0

    def train_on(self, tasks: Task) -> None:
        """See metarl.agents.learner.Lab."""
        self.distribution = self.distribution.with_train_tasks(tasks)


def made(agent: Agent, seed: int = 0) -> tuple[Learner, TaskDistribution]:
    """A learner that is ready to train, and its short, small environment."""
    distribution = make_distribution("grid-navigation")
    distribution.env.horizon = 4
    spaces = distribution.observation_space, distribution.action_space
    learner = agent.make(*spaces, agent.config_class(), seeded(seed), 1)
    lab = Lab(distribution)
    learner.prepare(lab)
    return learner, lab.distribution


def iterate(learner: Learner, distribution: TaskDistribution, seed: int) -> dict[str, float]:
    """One meta-iteration; returns its metrics."""
    return learner.update(sampled(learner, distribution, seed))


def sampled(learner: Learner, distribution: TaskDistribution, seed: int) -> MetaBatch:
    """What a meta-iteration would learn from."""
    generator = seeded(seed)
    tasks = distribution.sample(NUM_TASKS, "train", generator)
    batch = sample_iteration(distribution, learner, tasks, EPISODES, generator).batch
    return replace(batch, progress=0.1)


def one_step(learner: Learner, distribution: TaskDistribution) -> tuple[Adapted, Episodes]:
    """The beginning, and episodes collected there."""
    generator = seeded(3)
    adapted = learner.begin(NUM_TASKS, generator)
    env = distribution.bind(distribution.sample(NUM_TASKS, "test"), EPISODES)
    return adapted, collect(env, learner.policy, adapted, generator)


def tensors(tree: Any) -> list[torch.Tensor]:
    """Copies of all tensors of what was adapted, or of episodes."""
    values = [tree.params, tree.memory, tree.context] if isinstance(tree, Adapted) else list(vars(tree).values())
    leaves = pytree.tree_leaves([value for value in values if value is not None])
    return [leaf.clone() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_same_seed_gives_the_same_numbers(agent: Agent) -> None:
    results = []
    for _ in range(2):
        learner, distribution = made(agent)
        metrics = [iterate(learner, distribution, seed) for seed in (1, 2)]
        results.append((metrics, learner.state_dict()))
    assert results[0][0] == results[1][0]
    assert_same_state(results[0][1], results[1][1])


def test_a_resumed_training_ends_as_one_that_was_never_killed(agent: Agent) -> None:
    learner, distribution = made(agent)
    iterate(learner, distribution, 1)
    saved = learner.state_dict()
    expected = iterate(learner, distribution, 2)

    resumed, _ = made(agent, seed=7)
    resumed.load_state_dict(saved)
    assert iterate(resumed, distribution, 2) == expected
    assert_same_state(resumed.state_dict(), learner.state_dict())


def test_an_evaluation_leaves_the_learner_as_it_was(agent: Agent) -> None:
    learner, distribution = made(agent)
    before = learner.state_dict()
    tasks = distribution.sample(NUM_TASKS, "test")
    batches = adapt_to_tasks(learner, distribution, tasks, 2, EPISODES, seeded(1)).batches
    assert len(batches) == 3
    assert_same_state(learner.state_dict(), before)


def test_adaptation_changes_nothing_in_place_and_counts_its_steps(agent: Agent) -> None:
    learner, distribution = made(agent)
    adapted, episodes = one_step(learner, distribution)
    before = tensors(adapted), tensors(episodes)
    after = learner.adapt(adapted, episodes, seeded(4))
    assert_same(tensors(adapted), before[0])
    assert_same(tensors(episodes), before[1])
    assert (adapted.steps, after.steps) == (0, 1)


def test_nothing_leaks_from_one_task_to_another(agent: Agent) -> None:
    learner, distribution = made(agent)
    adapted, episodes = one_step(learner, distribution)
    first, others = slice(0, 1), slice(1, None)
    other_rewards = torch.cat([episodes.reward[first] + 5 * torch.randn(1, EPISODES, 4), episodes.reward[others]])

    def following(batch: Episodes) -> list[torch.Tensor]:
        """What the tasks after the first one become."""
        after = learner.adapt(adapted, batch, seeded(4))
        values = pytree.tree_leaves([value for value in (after.params, after.memory) if value is not None])
        return [leaf[others] for leaf in values]

    assert_same(following(replace(episodes, reward=other_rewards)), following(episodes))
    if episodes.memory is not None:
        other_memory = pytree.tree_map(lambda leaf: torch.cat([leaf[first] + 1, leaf[others]]), episodes.memory)
        assert_same(following(replace(episodes, memory=other_memory)), following(episodes))


class PayingMore:
    """An environment that pays something else to some of its episodes.

    Args:
        env: the environment.
        where: which episodes, bool (M, E).
    """

    def __init__(self, env: BatchedEnv, where: torch.Tensor) -> None:
        self.env, self.where = env, where
        self.horizon, self.batch_shape = env.horizon, env.batch_shape

    def reset(self, generator: torch.Generator) -> torch.Tensor:
        """See BatchedEnv.reset."""
        return self.env.reset(generator)

    def step(self, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See BatchedEnv.step."""
        obs, reward, terminated = self.env.step(action)
        return obs, torch.where(self.where, 5 - 3 * reward, reward), terminated

    def success(self) -> torch.Tensor | None:
        """See BatchedEnv.success."""
        return self.env.success()


def whole_trial(learner: Learner, distribution: TaskDistribution, where: torch.Tensor) -> Adaptation:
    """A trial of three episodes, whose rewards are others where it is said."""
    tasks = distribution.sample(NUM_TASKS, "test")
    return adapt_in(PayingMore(distribution.bind(tasks, EPISODES), where), learner, 2, seeded(3))


def test_what_one_task_earned_changes_nothing_in_the_others(agent: Agent) -> None:
    learner, distribution = made(agent)
    nowhere = torch.zeros(NUM_TASKS, EPISODES, dtype=torch.bool)
    in_first = nowhere.clone()
    in_first[0] = True
    plain, changed = (whole_trial(learner, distribution, where) for where in (nowhere, in_first))

    for one, other in zip(plain.batches, changed.batches, strict=True):
        assert_same([leaf[1:] for leaf in tensors(one)], [leaf[1:] for leaf in tensors(other)])
    become, become_otherwise = tensors(plain.adapted), tensors(changed.adapted)
    assert_same([leaf[1:] for leaf in become], [leaf[1:] for leaf in become_otherwise])
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(become, become_otherwise, strict=True))


def test_what_one_trial_earned_changes_nothing_in_the_others(agent: Agent) -> None:
    learner, distribution = made(agent)
    if learner.sampling.pooled:
        return
    nowhere = torch.zeros(NUM_TASKS, EPISODES, dtype=torch.bool)
    in_first = nowhere.clone()
    in_first[:, 0] = True
    plain, changed = (whole_trial(learner, distribution, where) for where in (nowhere, in_first))

    for one, other in zip(plain.batches, changed.batches, strict=True):
        assert_same([leaf[:, 1:] for leaf in tensors(one)], [leaf[:, 1:] for leaf in tensors(other)])
    assert_same(tensors(Adapted(plain.adapted.params)), tensors(Adapted(changed.adapted.params)))
    memories = tensors(Adapted({}, plain.adapted.memory)), tensors(Adapted({}, changed.adapted.memory))
    assert_same(*([leaf[:, 1:] for leaf in memory] for memory in memories))
    assert not all(torch.equal(a[:, 0], b[:, 0]) for a, b in zip(*memories, strict=True))


def test_separate_trials_do_not_know_one_another(agent: Agent) -> None:
    """Of a learner with separate trials: what one trial remembers changes nothing in the others."""
    learner, distribution = made(agent)
    if learner.sampling.pooled:
        assert learner.adapt(*one_step(learner, distribution)).memory is None
        return

    adapted, episodes = one_step(learner, distribution)
    changed = pytree.tree_map(lambda leaf: torch.cat([leaf[:, :1] + 1, leaf[:, 1:]], dim=1), episodes.memory)
    env = distribution.bind(distribution.sample(NUM_TASKS, "test"), EPISODES)
    after = [learner.adapt(adapted, replace(episodes, memory=memory)) for memory in (episodes.memory, changed)]

    def first_distribution(adapted: Adapted) -> torch.Tensor:
        obs = env.reset(seeded(5))
        acting, _ = learner.policy.apply(adapted.params, obs, adapted.memory)
        return torch.cat([leaf.flatten(2) for leaf in acting.parameters().values()], dim=-1)

    one, other = (first_distribution(adapted) for adapted in after)
    torch.testing.assert_close(one[:, 1:], other[:, 1:])
    assert not torch.allclose(one[:, 0], other[:, 0])


def test_a_trial_begins_with_an_empty_memory(agent: Agent) -> None:
    learner, distribution = made(agent)
    iterate(learner, distribution, 1)
    memory = learner.begin(NUM_TASKS, seeded(1)).memory
    assert memory is None or all(not bool(leaf.any()) for leaf in pytree.tree_leaves(memory))


def test_tasks_are_exchangeable(agent: Agent) -> None:
    learner, distribution = made(agent)
    adapted, episodes = one_step(learner, distribution)
    order = torch.tensor([2, 0, 1])
    plain = tensors(learner.adapt(adapted, episodes, seeded(4)))
    permuted = tensors(learner.adapt(adapted, episodes.tasks(order), seeded(4)))
    for one, other in zip(permuted, plain, strict=True):
        torch.testing.assert_close(one, other[order], rtol=1e-4, atol=1e-6)


def test_an_update_that_fails_leaves_everything_as_it_was(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, distribution = made(agent)
    iterate(learner, distribution, 1)
    batch = sampled(learner, distribution, 2)
    before = learner.state_dict()

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    # Wherever it is interrupted: at the first and at a later step of Adam, or while it computes.
    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    monkeypatch.setattr("metarl.agents.policies.optimizer.MetaOptimizer.assign", _failing_once())
    try:
        learner.update(batch)
    except KeyboardInterrupt:
        assert_same_state(learner.state_dict(), before)


def _failing_once() -> Any:
    """Assignment that is interrupted the first time it is called for the update, and works when state is restored."""
    from metarl.agents.policies.optimizer import MetaOptimizer

    assign = MetaOptimizer.assign
    restoring: list[bool] = []

    def wrapped(self: MetaOptimizer, parameters: dict[str, torch.Tensor]) -> None:
        assign(self, parameters)
        if not restoring:
            restoring.append(True)
            raise KeyboardInterrupt

    return wrapped


def test_a_section_of_the_report_has_a_name_and_lines(agent: Agent) -> None:
    class Nothing:
        def comparison_with_teachers(self, student: Any) -> Section | None:
            return None

    learner, _ = made(agent)
    assert learner.summary(Nothing()) is None
