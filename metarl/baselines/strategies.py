"""Classical strategies by name, and each as a learner whose adaptation is what it remembers of a trial."""

from typing import Any

import torch
from torch import Tensor

from metarl.agents.learner import Adapted, Learner, MetaBatch, Sampling
from metarl.baselines.bandits import BANDIT_STRATEGIES, BanditStrategy
from metarl.baselines.mdps import MDP_STRATEGIES, MDPStrategy
from metarl.envs.env_family import EnvFamily
from metarl.envs.families.bandit import BernoulliBandit
from metarl.envs.families.tabular_mdp import TabularMDP
from metarl.envs.rollout import Episodes

STRATEGIES = (*BANDIT_STRATEGIES, *MDP_STRATEGIES)
"""Names of all strategies, those of `metarl compare --baselines`."""


def why_it_cannot_play(name: str, env: EnvFamily) -> str:
    """Which environments a strategy plays, where this is none of them; "" where it is."""
    if name in BANDIT_STRATEGIES:
        return "" if isinstance(env, BernoulliBandit) else f"{name} plays Bernoulli bandits only"
    return "" if isinstance(env, TabularMDP) else f"{name} plays tabular Markov decision processes only"


class StrategyLearner(Learner):
    """A strategy in the place of a learner: it has no parameters, and is not trained.

    Args:
        name: one of `STRATEGIES`.
        env: what it plays.
        steps: episodes of a trial after its first one; of a bandit an episode is a whole trial, and there are none.
        generator: draws what a strategy believes.

    Raises:
        ValueError: it does not play this.
    """

    policy: BanditStrategy | MDPStrategy

    def __init__(self, name: str, env: EnvFamily, steps: int, generator: torch.Generator) -> None:
        if name in BANDIT_STRATEGIES:
            steps = 0
            self.policy = BanditStrategy(name, env)
        else:
            self.policy = MDPStrategy(name, env, generator)
        self.sampling = Sampling(steps, support=steps, query=True, pooled=False)

    def begin(self, num_tasks: int, generator: torch.Generator | None = None) -> Adapted:
        """See Learner.begin; nothing is remembered."""
        return Adapted({})

    def adapt(self, adapted: Adapted, episodes: Episodes, generator: torch.Generator | None = None) -> Adapted:
        """See Learner.adapt: what was counted is kept for the next episode."""
        memory: Any = self.policy.next_episode(episodes.memory)
        return Adapted({}, memory, steps=adapted.steps + 1)

    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """See Learner.update; there is nothing to improve."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """See Learner.state_dict; there is none."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See Learner.load_state_dict."""
