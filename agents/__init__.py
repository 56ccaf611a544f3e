"""The learners: policies, objectives and meta-learning algorithms. They never sample."""

from metarl.agents.learner import Adapted, Learner
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.registry import AGENTS

__all__ = ["AGENTS", "MAML", "Adapted", "Learner", "MAMLConfig", "MLPPolicy", "PolicyConfig"]
