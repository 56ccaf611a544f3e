"""Small policies, learners and episodes for the tests of the learners."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from metarl.agents.learner import Learner
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters
from metarl.envs.rollout import Episodes
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task

OBSERVATION_SPACE = Box(-np.inf, np.inf, (2,))
ACTION_SPACES: dict[str, Box | Discrete] = {"gaussian": Box(-1.0, 1.0, (2,)), "categorical": Discrete(3)}
TINY = PolicyConfig(hidden_sizes=(3,))


class OneState(TaskEnv):
    """Nothing to see and nothing that changes: a subclass pays for actions as the task says."""

    observation_space = Box(0.0, 1.0, (1,))

    def initial(self, rng: torch.Generator, params: Task | None = None) -> torch.Tensor:
        """Always the same state; the task's parameters are scalars."""
        assert params is not None
        return torch.ones(*next(iter(params.values())).shape, 1)

    def transition(
        self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator, params: Task | None = None
    ) -> torch.Tensor:
        """Nothing changes."""
        return state


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_policy(head: str, config: PolicyConfig = TINY) -> MLPPolicy:
    return MLPPolicy(OBSERVATION_SPACE, ACTION_SPACES[head], config)


def make_learner(head: str = "gaussian", config: MAMLConfig | None = None, seed: int = 0, num_threads: int = 1) -> MAML:
    return MAML(OBSERVATION_SPACE, ACTION_SPACES[head], config or MAMLConfig(policy=TINY), seeded(seed), num_threads)


def random_episodes(
    policy: MLPPolicy, params: Parameters, generator: torch.Generator, size: tuple[int, int, int] = (3, 3, 4)
) -> Episodes:
    """Episodes of size (M, E, H) that a policy could have collected: random observations, rewards and terminations.

    In every task the first episode lasts the whole horizon and the second terminates after one step.
    """
    num_tasks, num_episodes, horizon = size
    length = torch.randint(1, horizon + 1, (num_tasks, num_episodes), generator=generator)
    length[:, 0] = horizon
    if num_episodes > 1:
        length[:, 1] = 1
    taken = torch.arange(horizon) < length.unsqueeze(-1)

    def masked(values: torch.Tensor) -> torch.Tensor:
        return values * taken.reshape(*taken.shape, *(1,) * (values.ndim - 3))

    obs = masked(torch.randn(*size, policy.sizes[0], generator=generator))
    distribution, _ = policy.apply(params, obs)
    return Episodes(
        obs=obs,
        action=masked(distribution.sample(generator)),
        reward=masked(torch.randn(size, generator=generator)),
        mask=taken.to(obs.dtype),
        terminated=length < horizon,
        last_obs=torch.randn(num_tasks, num_episodes, policy.sizes[0], generator=generator),
        behaviour={name: masked(leaf) for name, leaf in distribution.parameters().items()},
    )


def random_meta_batch(learner: Learner, generator: torch.Generator) -> tuple[list[Episodes], Episodes]:
    """Support batches and a query batch as the training loop collects them, each with the policy adapted so far."""
    adapted = learner.begin(3)
    support = []
    for _ in range(learner.sampling.support):
        support.append(random_episodes(learner.policy, adapted.params, generator))
        adapted = learner.adapt(adapted, support[-1])
    return support, random_episodes(learner.policy, adapted.params, generator)


def meta_parameters(learner: Learner) -> Parameters:
    """Copies of the learner's meta-parameters, learned inner rates included."""
    prefix = "meta."
    return {name.removeprefix(prefix): v for name, v in learner.state_dict().items() if name.startswith(prefix)}


def perturb(learner: Learner, scale: float, generator: torch.Generator) -> None:
    """Move the meta-parameters a little at random."""
    state = learner.state_dict()
    for name, value in state.items():
        if name.startswith("meta."):
            value.add_(scale * torch.randn(value.shape, generator=generator))
    learner.load_state_dict(state)


def assert_same_state(actual: Parameters, expected: Parameters) -> None:
    """Bit-identical tensors under the same names."""
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
