"""The agents by name."""

import dataclasses

import pytest

from metarl.agents.registry import AGENTS, find_agent
from tests.helpers.agent_builders import ACTION_SPACES, OBSERVATION_SPACE, seeded


def test_every_agent_stands_under_its_name() -> None:
    assert list(AGENTS) == ["maml", "reptile", "multitask", "distill", "rl2"]
    assert all(agent.name == name for name, agent in AGENTS.items())


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_makes_a_learner_of_its_default_configuration(name: str) -> None:
    agent = AGENTS[name]
    config = agent.config_class()
    assert dataclasses.is_dataclass(config)
    learner = agent.make(OBSERVATION_SPACE, ACTION_SPACES["gaussian"], config, seeded(0), 1)
    assert learner.begin(2).params["log_std"].shape == (2, 2)
    assert learner.adaptation_steps >= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mamal", "did you mean 'maml'.*package.module:MyAgent"),
        ("no_such_module:Agent", "cannot import module 'no_such_module'"),
        ("math:Agent", "has no attribute 'Agent'"),
        ("math:pi", "'pi' is a float, but must be a metarl.agents.learner.Agent"),
    ],
)
def test_what_is_no_agent_is_refused_in_a_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        find_agent(name)
    assert len(str(refused.value).splitlines()) == 1


def test_the_summary_is_the_first_line_of_the_configuration() -> None:
    assert AGENTS["maml"].summary == (
        "MAML policy gradient: MAML-TRPO, ProMP, E-MAML, FOMAML, ANIL, Meta-SGD, learned rates per step."
    )
