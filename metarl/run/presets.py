"""Named sets of defaults for an agent on an environment: tuned ones and published ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from metarl.agents.learner import Preset
from metarl.agents.registry import find_agent
from metarl.envs.registry import ALIASES, base_name
from metarl.errors import UserError, unknown
from metarl.run.config import TrainConfig

_LEARNED_STEPS = {
    "learner.outer": "ppo",
    "learner.outer_lr": 3e-3,
    "learner.outer_lr_final": 0.97**60,
    "learner.adaptation_steps": 3,
    "learner.objective_steps": "all",
    "learner.inner_lr_mode": "meta-sgd-per-step",
    "learner.log_std_lr_factor": 10.0,
}
"""What worked best on every family tried, seeds 0 to 2: step sizes learned for each step, every step's return in the
objective, and exploration noise that can shrink within three steps. The outer rate falls to 16% at the end, however
long the training: by 3% in each of 60 iterations. What each contributes stands in
runs/reference/README.md."""

_PLAIN_TRPO = {"learner.estimator": "plain", "learner.fvp_fraction": 1.0}
"""The original codes' inner objective, the plain log-likelihood, and Fisher products on the whole batch."""

_HALVED_BEYOND = {"learner.inner_lr_decay": 0.5}
"""Changes nothing in training with one step; the MAML paper evaluates further steps, all at half the rate of the first:
0.1, 0.05, 0.05."""

_OWN_BASELINE = ", with this project's baseline"
"""What no preset has from the papers: agents/gradients/README.md, "What the baseline takes from the rewards"."""

_MAML_PRESETS = {
    "default": Preset("3 adaptation steps with learned rates, ProMP outer step", {"iterations": 60, **_LEARNED_STEPS}),
    "one-step": Preset(
        "1 adaptation step with learned rates, ProMP outer step",
        {"iterations": 100, **_LEARNED_STEPS, "learner.adaptation_steps": 1, "learner.outer_lr_final": 0.97**100},
    ),
    "maml-trpo": Preset(
        f"MAML-TRPO as published in pytorch-maml-rl{_OWN_BASELINE}: 1 step of rate 0.1; long",
        {"iterations": 500, "learner.policy.init_log_std": 0.0, **_PLAIN_TRPO},
    ),
    "promp": Preset(
        f"ProMP as published{_OWN_BASELINE}: 40 tasks, 1 step of rate 0.1, Adam 1e-3; long",
        {"iterations": 1000, "num_tasks": 40, "learner.outer": "ppo", "learner.policy.init_log_std": 0.0},
    ),
}

_DECAYING_STEPS = {
    "learner.adaptation.inner_lr": 0.35,
    "learner.adaptation.inner_lr_decay": 0.5,
    "learner.adaptation.log_std_lr_factor": 10.0,
    "learner.adaptation.rates": "chosen",
}
"""Step sizes that come near the learned ones on point navigation: each is half the one before, and the noise shrinks
with them. Elsewhere they are too long, so that smaller ones are tried on validation tasks when training ends."""

_REPTILE_PRESETS = {
    "default": Preset(
        "3 policy-gradient steps; Adam takes the displacement as its gradient",
        {"iterations": 80, "learner.outer": "adam", "learner.outer_lr": 0.02, **_DECAYING_STEPS},
    ),
}

_MULTITASK_PRESETS = {
    "default": Preset(
        "joint PPO, then 3 policy-gradient steps on the new task",
        {"iterations": 240, **_DECAYING_STEPS, "learner.adaptation.inner_lr": 0.25},
    ),
}

_DISTILL_PRESETS = {
    "default": Preset(
        "a student of a fifth of the default network's parameters, adapting in 3 steps with learned rates",
        {"iterations": 60, **_LEARNED_STEPS, "learner.policy.hidden_sizes": (28, 28)},
    ),
}

_WHOLE_TRIALS: dict[str, Any] = {
    "eval_interval": 20,
    "eval_tasks": 100,
    "learner.outer_epochs": 4,
    "learner.outer_lr": 2e-3,
}
"""RL²: many short trials, each of a task of its own."""

_RL2_PRESETS = {
    "default": Preset(
        "GRU of 64 units, trials of 2 episodes, PPO; one trial of each task",
        {"iterations": 200, "num_tasks": 200, "episodes": 1, **_WHOLE_TRIALS},
    ),
}

AGENT_PRESETS: dict[str, dict[str, Preset]] = {
    "maml": _MAML_PRESETS,
    "reptile": _REPTILE_PRESETS,
    "multitask": _MULTITASK_PRESETS,
    "distill": _DISTILL_PRESETS,
    "rl2": _RL2_PRESETS,
}
"""Presets of each agent for any environment. The default ones all sample 240 batches; that of rl2 other ones."""


def _changed_default(presets: dict[str, Preset], why: str, changes: Mapping[str, Any]) -> dict[str, Preset]:
    """The default preset with further changes."""
    default = presets["default"]
    return {"default": Preset(f"{default.summary}; {why}", {**default.changes, **changes})}


def _on_bandit(env: str) -> dict[tuple[str, str], dict[str, Preset]]:
    """Presets for a bandit: the rewards of later pulls say nothing about an earlier one."""
    why = "γ = 0: a pull pays at once"
    of_maml = {"learner.gamma": 0.0}
    of_adaptation = {"learner.adaptation.gamma": 0.0}
    return {
        ("maml", env): _changed_default(_MAML_PRESETS, why, of_maml),
        ("reptile", env): _changed_default(_REPTILE_PRESETS, why, of_adaptation),
        ("multitask", env): _changed_default(_MULTITASK_PRESETS, why, of_adaptation),
    }


_FINN_ROBOTS = (
    "half-cheetah-direction",
    "half-cheetah-velocity/finn",
    "half-cheetah-velocity/promp",
    "ant-direction",
    "ant-direction/circle",
    "ant-velocity",
)
_ROBOTS = (
    *_FINN_ROBOTS,
    "half-cheetah-direction/promp",
    "half-cheetah-dynamics",
    "ant-goal",
    "humanoid-direction",
    "hopper-dynamics",
    "walker2d-dynamics",
)

_PROMP_ON: dict[str, dict[str, Any]] = {
    "ant-goal": {"learner.adaptation_steps": 2},
    "humanoid-direction": {"learner.policy.hidden_sizes": (128, 128)},
    "hopper-dynamics": {"learner.inner_lr": 0.05, "learner.inner_kl_penalty": 1e-3},
    "walker2d-dynamics": {"learner.inner_lr": 0.05, "learner.inner_kl_penalty": 1e-3},
}
"""What Rothfuss et al. 2018 set differently on some robots."""


def _on_robot(env: str) -> dict[tuple[str, str], dict[str, Preset]]:
    """Presets for a robot. Robots need many more iterations than the small families, each with fewer tasks."""
    long = {"num_tasks": 10, "eval_interval": 20, "eval_tasks": 10, "iterations": 600}

    # This testbed's own settings.
    one_step = {**_MAML_PRESETS["one-step"].changes, **long, "learner.outer_lr_final": 0.998**600}
    wide = {"num_tasks": 80, "eval_interval": 50, "iterations": 300}
    on_a_gpu = {**one_step, **wide, "learner.outer_lr": 4e-3, "learner.outer_lr_final": 0.2}
    reptile = _REPTILE_PRESETS["default"]
    of_reptile = {"default": Preset(f"{reptile.summary}; long", {**reptile.changes, **long})}

    # The published ones.
    promp = {**_MAML_PRESETS["promp"].changes, **_PROMP_ON.get(env, {})}
    of_maml = {
        "default": Preset("1 adaptation step with learned rates, ProMP outer step; an hour on two CPU cores", one_step),
        "gpu": Preset("the default with 8 times as many tasks, which a GPU samples in the same time", on_a_gpu),
        "promp": Preset(f"as published by Rothfuss et al. 2018{_OWN_BASELINE}; long", promp),
        "maml-trpo": Preset("MAML-TRPO with ProMP's tasks and network; long", _maml_trpo(promp)),
    }
    if env in _FINN_ROBOTS:
        network = {"learner.policy.hidden_sizes": (100, 100), "learner.policy.activation": "relu"}
        finn = {"iterations": 800, **network, **_HALVED_BEYOND}
        of_maml["paper"] = Preset(
            f"MAML-TRPO as published by Finn et al. 2017{_OWN_BASELINE}; long", _maml_trpo(promp) | finn
        )

    return {("maml", env): of_maml, ("reptile", env): of_reptile}


def _maml_trpo(promp: Mapping[str, Any]) -> dict[str, Any]:
    """ProMP's settings with MAML-TRPO's outer step, which has no penalty on the KL of the inner steps."""
    changes = {name: value for name, value in promp.items() if name != "learner.inner_kl_penalty"}
    return changes | {"learner.outer": "trpo", **_PLAIN_TRPO}


def _for_robots() -> dict[tuple[str, str], dict[str, Preset]]:
    """The presets of all robots."""
    presets: dict[tuple[str, str], dict[str, Preset]] = {}
    for env in _ROBOTS:
        presets |= _on_robot(env)
    return presets


def _of_rl2() -> dict[tuple[str, str], dict[str, Preset]]:
    """Presets of RL² where trials are of another length than the default's."""
    pulls = "a trial is one episode of pulls"
    one_episode = {"learner.trial_episodes": 1}
    small = {
        **one_episode,
        "learner.gae_lambda": 0.3,
        "learner.outer_lr": 3e-3,
        "iterations": 300,
        "num_tasks": 1000,
        "test_tasks": 1000,
    }
    of_ten_pulls = {**one_episode, "learner.policy.memory_steps": 10, "iterations": 300, "num_tasks": 2000}
    with_fast_weights = _long_trials(pulls, of_ten_pulls)["default"]
    of_a_grid = {"learner.trial_episodes": 4, "learner.gamma": 0.97, "iterations": 300, "num_tasks": 300}
    of_a_robot = {
        "learner.policy.hypernetwork": True,
        "learner.policy.recurrent_size": 128,
        "learner.gamma": 0.97,
        "learner.gae_lambda": 0.9,
        "learner.outer_lr": 7e-4,
        "iterations": 600,
        "num_tasks": 20,
        "eval_tasks": 10,
    }

    return {
        **{("rl2", env): _long_trials(pulls, one_episode) for env in _LONG_BANDITS},
        ("rl2", "bandit/bernoulli/n100-k5"): _few_arms(_long_trials(pulls, one_episode)),
        ("rl2", "bandit/bernoulli/n10-k5"): {
            "default": with_fast_weights,
            "fast-weights": with_fast_weights,  # its name before it was the default: runs have it in their files
            "gru": _changed_default(_RL2_PRESETS, pulls, small)["default"],
        },
        ("rl2", "tabular-mdp"): _long_trials(
            "trials of 10 episodes", {"learner.trial_episodes": 10, "learner.gamma": 0.97}
        ),
        ("rl2", "grid-navigation"): _changed_default(_RL2_PRESETS, "trials of 4 episodes", of_a_grid),
        **{
            ("rl2", env): _changed_default(_RL2_PRESETS, "hypernetwork, GRU of 128 units; long", of_a_robot)
            for env in _FINN_ROBOTS
        },
    }


def _few_arms(presets: dict[str, Preset]) -> dict[str, Preset]:
    """Five arms are pulled so often each that what was seen of one must be kept to the end of the trial."""
    kept = {
        "learner.policy.memory_steps": 100,
        "learner.gamma": 1.0,
        "learner.gae_lambda": 0.95,
        "eval_tasks": 1000,
        "eval_interval": 10,
    }
    default = presets["default"]
    return presets | {"default": Preset(default.summary, {**default.changes, **kept})}


def _long_trials(trial: str, changes: Mapping[str, Any]) -> dict[str, Preset]:
    """Presets for trials of 100 steps: fast weights, and a GRU as it is published."""
    rest = f"PPO; one trial of each task; {trial}"
    return {
        "default": Preset(f"fast weights, {rest}", {**_WHOLE_TRIALS, "episodes": 1, **_HUNDRED_STEPS, **changes}),
        "gru": Preset(
            f"GRU of 128 units, {rest}", {**_WHOLE_TRIALS, "episodes": 1, **changes, **_GRU_OF_HUNDRED_STEPS}
        ),
    }


_HUNDRED_STEPS: dict[str, Any] = {
    "iterations": 100,
    "num_tasks": 500,
    "test_tasks": 1000,
    "learner.policy.cell": "fast-weights",
    "learner.policy.recurrent_size": 16,
    "learner.policy.hidden_sizes": (64,),
    "learner.policy.memory_steps": 20,
    "learner.outer_lr": 5e-3,
    "learner.gae_lambda": 0.9,
    "learner.outer_epochs": 3,
    "learner.minibatches": 10,
    "learner.entropy_bonus": 0.02,
    "learner.entropy_annealing": "linear",
    "learner.max_gradient_norm": 1.0,
}
"""RL² in trials of 100 steps: a memory that is addressed learns them in a tenth of a GRU's steps."""

_GRU_OF_HUNDRED_STEPS: dict[str, Any] = {
    "iterations": 400,
    "num_tasks": 1000,
    "test_tasks": 1000,
    "learner.policy.recurrent_size": 128,
    "learner.policy.memory_steps": 100,
    "learner.policy.input_gain": 4.0,
    "learner.gamma": 0.97,
    "learner.gae_lambda": 0.9,
    "learner.outer_epochs": 3,
    "learner.minibatches": 6,
    "learner.entropy_bonus": 0.04,
    "learner.entropy_annealing": "linear",
    "learner.max_gradient_norm": 1.0,
}
"""The same with a recurrent unit. Units that remember 1 to 100 steps from the start are what makes it learn at all
in so few steps. With the published λ = 0.3, errors of a young value function, larger than the rewards, take the place
of the advantages, and the policy settles on some action before it has learned anything."""

_LONG_BANDITS = ("bandit/bernoulli", "bandit/gaussian")


PRESETS: dict[tuple[str, str], dict[str, Preset]] = {
    **_for_robots(),
    **_on_bandit("bandit/bernoulli"),
    **_on_bandit("bandit/gaussian"),
    **{
        ("maml", env): _changed_default(_MAML_PRESETS, "100 validation tasks", {"eval_tasks": 100})
        for env in ("pendulum", "pendulum/dynamics")
    },
    **_of_rl2(),
    ("maml", "point-navigation/finn"): {
        "long": Preset(
            "3 adaptation steps as well as the MAML paper's −11.7 / −3.3 / −3.2; the default for longer, with λ = 0.98",
            {"iterations": 150, **_LEARNED_STEPS, "learner.outer_lr_final": 0.98**150, "learner.gae_lambda": 0.98},
        ),
        "paper": Preset(
            f"MAML-TRPO as published by Finn et al. 2017{_OWN_BASELINE}: 1 step of rate 0.1, 100 × 100 ReLU; long",
            {
                "iterations": 500,
                **_HALVED_BEYOND,
                "learner.policy.hidden_sizes": (100, 100),
                "learner.policy.activation": "relu",
                "learner.policy.init_log_std": 0.0,
                **_PLAIN_TRPO,
            },
        ),
    },
}
"""(agent, environment) → further presets for that environment; they replace those of the same name."""


def presets_for(agent: str, env: str) -> dict[str, Preset]:
    """The presets of an agent on an environment; "default" is always one of them."""
    own = {"default": Preset("the defaults of its configuration", {}), **find_agent(agent).presets}
    base = base_name(env)  # options of an environment have no presets of their own
    return own | AGENT_PRESETS.get(agent, {}) | PRESETS.get((agent, ALIASES.get(base, base)), {})


def default_config(agent: str, env: str, preset: str = "default") -> TrainConfig:
    """The configuration that `metarl train AGENT ENV --preset PRESET` starts from.

    Raises:
        UserError, ValueError: unknown agent or preset, or a preset of a field that there is not.
    """
    presets = presets_for(agent, env)
    if preset not in presets:
        raise unknown(f"preset of {agent} on {env}", preset, presets)

    config = TrainConfig(agent=agent, env=env, preset=preset, learner=find_agent(agent).config_class())
    for path, value in presets[preset].changes.items():
        config = _replace(config, path.split("."), value)
    return config


def _replace(config: Any, path: list[str], value: Any) -> Any:
    """`dataclasses.replace` along a path of nested fields."""
    name, *rest = path
    if not hasattr(config, name):
        raise UserError(f"a preset sets {name!r}, but {type(config).__name__} has no such field")
    if rest:
        value = _replace(getattr(config, name), rest, value)
    return dataclasses.replace(config, **{name: value})
