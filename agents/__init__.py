"""The learners: policies, objectives and meta-learning algorithms. They never sample."""

from agents.maml import MAML, MAMLConfig
from agents.meta_learner import Adapted, MetaLearner
from agents.policy import MLPPolicy, PolicyConfig
from agents.registry import AGENTS

__all__ = ["AGENTS", "MAML", "Adapted", "MAMLConfig", "MLPPolicy", "MetaLearner", "PolicyConfig"]
