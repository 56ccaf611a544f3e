"""Configurations reject unknown choices and numbers that are not finite."""

from typing import Any

import pytest

from metarl.agents.gradients.trust_region import TrustRegionConfig
from metarl.agents.maml import MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (MAMLConfig, {"outer": "foo"}, r"outer must be one of \('trpo', 'ppo'\), got 'foo'"),
        (MAMLConfig, {"inner_lr_mode": "sgd"}, "inner_lr_mode must be one of"),
        (MAMLConfig, {"objective_steps": 3}, "objective_steps must be one of"),
        (MAMLConfig, {"estimator": "foo"}, "estimator must be one of"),
        (MAMLConfig, {"inner_kl_penalty": float("nan")}, "inner_kl_penalty must be finite, got nan"),
        (TrustRegionConfig, {"cg_damping": float("inf")}, "cg_damping must be finite, got inf"),
        (PolicyConfig, {"activation": "sigmoid"}, r"activation must be one of \('tanh', 'relu'\), got 'sigmoid'"),
        (PolicyConfig, {"init_log_std": float("nan")}, "init_log_std must be finite"),
    ],
)
def test_choices_and_finite_numbers_are_checked(config: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)
