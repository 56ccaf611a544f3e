"""Input that nobody means gives one line in plain words, and exit code 2."""

import pytest

from metarl.cli.main import main
from metarl.errors import EXIT_BAD_INPUT
from tests.helpers.workbench import ENV, RUN, complaint

pytest_plugins = ["tests.helpers.run_fixtures"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", RUN, "--task", '{"goal":' * 3000], "is not valid JSON: nested too deep"),
        (["evaluate", RUN, "--task", '{"goal": ' + "9" * 5000 + "}"], "is not valid JSON"),
        (["evaluate", RUN, "--task", '{"goal": [true, 0]}'], "task parameter 'goal' must be numbers, got [True, 0]"),
        (["evaluate", RUN, "--task", '{"goal": [1, 0], "goal": [0, 1]}'], "the name 'goal' comes twice"),
        (["compare", RUN, "--sb3-settings", '{"ppo": {"gamma": 0.9, "gamma": 0.5}}'], "the name 'gamma' comes twice"),
        (["compare", RUN, "--sb3-settings", '{"ppo": {"gamma": NaN}}'], "ppo: gamma must be finite, got nan"),
        (
            ["compare", RUN, "--sb3-settings", '{"ppo": {"n_epochs": 0}}'],
            "n_epochs must be a whole number of at least 1",
        ),
        (["compare", RUN, "--sb3-settings", "[" * 3000], "sb3_settings: not JSON: nested too deep"),
        (["evaluate", RUN, "--episodes", "nan"], "--episodes: must be a whole number, got 'nan'"),
        (["evaluate", RUN, "--num-tasks", "1.5"], "--num-tasks: must be a whole number, got '1.5'"),
        (["train", "maml", ENV, "--inner-lr", "fast"], "--inner-lr: must be a number, got 'fast'"),
        (["train", "maml", ENV, "--inner-lr-decay", "1e30"], "inner_lr_decay must be at most 1, got 1e+30"),
        (["train", "reptile", ENV, "--inner-lr", "1e300"], "inner_lr must lie within ±1e+30, got 1e+300"),
        (["train", "maml", ENV, "--env-timeout", "inf"], "env_timeout must be finite, got inf"),
        (["train", "maml", ENV, "--env-timeout", "-1"], "env_timeout must not be negative, got -1"),
        (["train", "maml", "os:abort"], "'os' is Python's own, and defines no environment"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_it_is_said_in_one_line(
    arguments: list[str], said: str, workplace: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == EXIT_BAD_INPUT
    message = complaint(capsys)
    assert said in message
    assert len(message) < 1000
