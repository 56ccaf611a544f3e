"""The agent of agents/README.md, used as a user would: from the command line, from a folder of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from safetensors.torch import load_file

from metarl import SpecialisedPolicy, load_policy
from metarl.agents.learner import Adapted
from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.errors import TrainingError, UserError
from metarl.evaluation.adaptation import adapt_to_tasks
from tests.helpers import own_agent
from tests.helpers.agent_builders import seeded
from tests.metarl.deployment.test_policy import CARD

pytest_plugins = ["tests.helpers.run_fixtures"]

MOST_LINES = 60
SMALL = [
    "--num-tasks",
    "3",
    "--episodes",
    "2",
    "--eval-tasks",
    "2",
    "--test-tasks",
    "3",
    "--num-threads",
    "1",
    "--name",
    "mine",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's file lies, and where the commands run."""
    own_agent.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, own_agent.MODULE, raising=False)
    return tmp_path


def test_it_is_a_whole_agent_in_a_screen() -> None:
    assert len(own_agent.source().splitlines()) <= MOST_LINES


def test_it_finds_the_arm_that_pays(tmp_path: Path) -> None:
    """On known arms the running mean is that of what was earned, and the return goes from chance to near the best."""
    distribution = make_distribution("bandit/bernoulli/n100-k5")
    agent = own_agent.load(tmp_path)
    spaces = distribution.observation_space, distribution.action_space
    learner = agent.make(*spaces, agent.config_class(), seeded(0), 1)
    tasks = {"mean": torch.tensor([[0.1, 0.1, 0.9, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1, 0.1]])}

    batches, adapted = adapt_to_tasks(learner, distribution, tasks, 2, 3, seeded(1))
    taken = torch.cat([batch.action for batch in batches[:2]], dim=1) == 2
    earned = torch.cat([batch.reward for batch in batches[:2]], dim=1)
    assert torch.equal(adapted.params["tried"][:, 2], 1 + taken.sum(dim=(1, 2)).float())
    torch.testing.assert_close(adapted.params["paid"][:, 2], 1 + (earned * taken).sum(dim=(1, 2)))
    assert batches[0].returns[0].mean() < 40 < 80 < batches[2].returns[0].mean()


def test_every_command_takes_it(folder: Path, capsys: pytest.CaptureFixture[str], without_figures: None) -> None:
    train = ["train", own_agent.NAME, "bandit/bernoulli/n10-k5", "--iterations", "1", "--steps", "1", *SMALL]
    assert main(train) == 0
    assert main(["train", "--resume", "runs/mine", "--iterations", "2"]) == 0
    capsys.readouterr()

    assert main(["evaluate", "runs/mine", "--num-tasks", "4", "--steps", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["agent"], found["episodes"]) == (own_agent.NAME, [0, 2, 4])

    assert main(["adapt", "runs/mine", "--task", "mean=0.1,0.2,0.9,0.1,0.3", "--out", "policy", "--no-onnx"]) == 0
    assert (folder / "policy" / "policy.safetensors").is_file()

    assert main(["render", "runs/mine", "--out", "still.png", "--num-tasks", "1", "--episodes", "1"]) == 0
    compared = ["compare", "runs/mine", "--baselines", "random", "oracle", "--num-tasks", "2", "--out", "compared"]
    assert main(compared) == 0


def test_its_policy_is_loaded_with_its_own_network(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", own_agent.NAME, "bandit/bernoulli/n10-k5", "--iterations", "1", "--steps", "1", *SMALL]
    assert main(train) == 0
    assert main(["adapt", "runs/mine", "--task", "mean=0.1,0.2,0.9,0.1,0.3", "--out", "policy", "--no-onnx"]) == 0
    module = sys.modules[own_agent.MODULE]

    policy = load_policy("policy", module.MyPolicy(5))
    params = load_file("policy/policy.safetensors")
    assert policy.predict(np.ones(1, np.float32))[0] == (params["paid"] / params["tried"]).argmax()
    card = Path("policy/README.md").read_text(encoding="utf-8")
    assert 'from my_agents import MyPolicy\n\npolicy = metarl.load_policy("DIR", MyPolicy(…))' in card


def test_a_network_of_ones_own_is_never_imported_by_a_file(folder: Path) -> None:
    agent = own_agent.load(folder)
    module = sys.modules[agent.make.__module__]
    network = module.MyPolicy(5)
    space, arms = Box(-1, 1, (1,)), Discrete(5)
    SpecialisedPolicy(network, network.init(seeded(0)), space, arms, arms, CARD).save("policy", onnx=False)
    del sys.modules[own_agent.MODULE]

    with pytest.raises(UserError, match=r"^policy: its network my_agents:MyPolicy is your own: give it as load_policy"):
        load_policy("policy")
    assert own_agent.MODULE not in sys.modules
    with pytest.raises(UserError, match=r"policy.safetensors does not hold the parameters of the network"):
        load_policy("policy", module.MyPolicy(4))


def test_the_console_script_finds_it_in_the_working_directory(folder: Path) -> None:
    """As an installed `metarl` does, Python looks for modules beside the script, not where the command runs (-P)."""
    command = [sys.executable, "-P", "-m", "metarl", "train", own_agent.NAME, "bandit/bernoulli", "--help"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "adaptation steps on a new task" in " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            lambda adapted: Adapted({n: leaf[:1] for n, leaf in adapted.params.items()}),
            r"'paid' of shape \(1, 5\); .* 3$",
        ),
        (lambda adapted: adapted.params, "must return a metarl.agents.learner.Adapted, not a dict"),
    ],
    ids=["one-task", "no-adapted"],
)
def test_what_adapts_to_other_tasks_is_refused(tmp_path: Path, given: Callable[[Adapted], Any], said: str) -> None:
    distribution = make_distribution("bandit/bernoulli/n10-k5")
    agent = own_agent.load(tmp_path)
    spaces = distribution.observation_space, distribution.action_space
    learner = agent.make(*spaces, agent.config_class(), seeded(0), 1)
    whole = learner.adapt
    learner.adapt = lambda *arguments: given(whole(*arguments))  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"MyLearner.adapt\(\) .*" + said):
        adapt_to_tasks(learner, distribution, distribution.sample(3, "train", seeded(1)), 1, 2, seeded(2))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [(None, "not NoneType"), ({"paid": torch.ones(3)}, "'paid' is a Tensor")],
    ids=["none", "tensor"],
)
def test_metrics_that_are_no_numbers_are_refused_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], metrics: object, said: str
) -> None:
    agent = own_agent.load(folder)
    monkeypatch.setattr(agent.make, "update", lambda self, batch: metrics)
    monkeypatch.setitem(sys.modules, own_agent.MODULE, sys.modules[agent.make.__module__])
    train = ["train", own_agent.NAME, "bandit/bernoulli/n10-k5", "--iterations", "1", "--steps", "1", *SMALL]
    assert main(train) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "MyLearner.update() must return numbers by name" in shown
    assert said in shown


@pytest.mark.parametrize(
    ("old", "new", "env", "said"),
    [
        (
            "    def init(",
            "    def start(",
            "bandit/bernoulli",
            "AttributeError: 'MyPolicy' object has no attribute 'init'",
        ),
        (
            "    def update(",
            "    def improve(",
            "bandit/bernoulli",
            "TypeError: Can't instantiate abstract class MyLearner",
        ),
        ("", "", "point-navigation/finn", "AttributeError: 'Box' object has no attribute 'n' (my_agents.py:"),
        ("@dataclass(frozen=True)\n", "", "bandit/bernoulli", "must be a dataclass"),
        (
            ", memory\n",
            "\n",
            "bandit/bernoulli",
            "MyPolicy.apply() must return a pair, (distribution, memory), not a Cat",
        ),
        (
            "return Categorical(",
            "return (",
            "bandit/bernoulli",
            "(distribution, memory), and a Tensor has no method samp",
        ),
    ],
    ids=["no-init", "no-update", "continuous", "no-dataclass", "no-pair", "no-distribution"],
)
def test_mistakes_are_said_in_a_line_that_names_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, env: str, said: str
) -> None:
    source = own_agent.source()
    assert old in source
    (folder / "my_agents.py").write_text(source.replace(old, new, 1), encoding="utf-8")
    while_running = "(distribution, memory)" in said
    assert main(["train", own_agent.NAME, env, "--iterations", "1", *SMALL]) == (1 if while_running else 2)
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown
    assert while_running or shown.replace("'", "").startswith("metarl: agent my_agents:MyAgent: ")
    assert "mistake in the program" not in shown
