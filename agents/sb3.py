"""Stable-Baselines3 as baselines: which of its algorithms can act where, their settings here, and their policies.

This module receives an SB3 VecEnv and builds none. Importing it imports stable_baselines3, which takes seconds.
"""

import copy
import inspect
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from numpy.typing import NDArray
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor, nn

from metarl.agents.policies.distributions import LOG_STD
from metarl.agents.policies.observations import CLIP, ObservationNormalizer
from metarl.agents.policies.parameters import Parameters
from metarl.agents.policies.reference import FixedActions
from metarl.envs.family_entry import did_you_mean

Result = TypeVar("Result")


@dataclass(frozen=True)
class Algorithm:
    """An algorithm of SB3 and how it is used here.

    Attributes:
        make: its class.
        spaces: action spaces it can act in.
        settings: arguments of the class for training from scratch on one task.
        pretraining: the arguments that differ for training over many tasks with hundreds of parallel environments.
    """

    make: type[BaseAlgorithm]
    spaces: tuple[type[Space[Any]], ...]
    settings: dict[str, Any]
    pretraining: dict[str, Any]


_ACTOR_CRITIC = {"net_arch": [64, 64], "activation_fn": nn.Tanh, "log_std_init": -0.5}
_OFF_POLICY = {
    "policy_kwargs": {"net_arch": [64, 64]},
    "learning_rate": 1e-3,
    "learning_starts": 500,
    "batch_size": 128,
    "train_freq": 1,
    "gradient_steps": 2,
}

# PPO's settings are those of thirteen tried that need the fewest environment steps; the others stand in
# metarl/baselines/README.md.
ALGORITHMS = {
    "ppo": Algorithm(
        PPO,
        (Box, Discrete, MultiDiscrete),
        {
            "n_steps": 10,
            "batch_size": 100,
            "n_epochs": 10,
            "learning_rate": 5e-4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "policy_kwargs": _ACTOR_CRITIC,
        },
        {"n_steps": 100, "batch_size": 4000, "n_epochs": 5, "learning_rate": 1e-3},
    ),
    "a2c": Algorithm(A2C, (Box, Discrete, MultiDiscrete), {"n_steps": 5, "policy_kwargs": _ACTOR_CRITIC}, {}),
    "sac": Algorithm(SAC, (Box,), _OFF_POLICY, {}),
    "td3": Algorithm(TD3, (Box,), _OFF_POLICY, {}),
    "ddpg": Algorithm(DDPG, (Box,), _OFF_POLICY, {}),
    "dqn": Algorithm(DQN, (Discrete,), {**_OFF_POLICY, "target_update_interval": 500}, {}),
}


def check_algorithm(name: str, action_space: Space[Any]) -> Algorithm:
    """The algorithm of this name.

    Raises:
        ValueError: there is none, or it cannot act in this space; names those that can.
    """
    if name not in ALGORITHMS:
        hint = did_you_mean(name, ALGORITHMS)
        raise ValueError(f"unknown SB3 algorithm {name!r}{hint}; known are {', '.join(ALGORITHMS)}")

    algorithm = ALGORITHMS[name]
    if not isinstance(action_space, algorithm.spaces):
        able = [other for other, entry in ALGORITHMS.items() if isinstance(action_space, entry.spaces)]
        raise ValueError(f"SB3 algorithm {name!r} cannot act in {action_space}; those that can: {', '.join(able)}")
    return algorithm


def check_changes(name: str, changes: Mapping[str, Any]) -> None:
    """Refuse arguments that an algorithm does not have.

    Raises:
        ValueError: names the first one and those that there are.
    """
    # What make_model itself passes or must not be touched.
    reserved = {"policy", "env", "seed", "device", "verbose", "policy_kwargs", "self", "_init_setup_model"}
    parameters = inspect.signature(ALGORITHMS[name].make).parameters
    known = [parameter for parameter in parameters if parameter not in reserved]

    for argument in changes:
        if argument not in known:
            hint = did_you_mean(argument, known)
            raise ValueError(f"SB3's {name} has no argument {argument!r}{hint}; known are {', '.join(known)}")


def make_model(
    name: str,
    env: VecEnv,
    seed: int,
    log_dir: str | Path | None = None,
    initial: BaseAlgorithm | None = None,
    pretraining: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> BaseAlgorithm:
    """A new, untrained model on the CPU that logs to TensorBoard.

    Args:
        name: in ALGORITHMS.
        env: what it trains on.
        seed: of its parameters and exploration.
        log_dir: directory of its log, progress.csv; None: it keeps none.
        initial: a model of the same algorithm whose networks it starts from. Its optimizer starts anew, and so does
            a Gaussian's standard deviation: pretraining leaves too little of it to explore a new task.
        pretraining: settings for many tasks at once instead of one.
        changes: arguments of the algorithm's class to set otherwise than here.

    Raises:
        ValueError: unknown algorithm, one that cannot act here, or arguments that it does not have.
    """
    algorithm = check_algorithm(name, env.action_space)
    changes = dict(changes or {})
    check_changes(name, changes)
    settings = algorithm.settings | (algorithm.pretraining if pretraining else {}) | changes
    settings = copy.deepcopy(settings)  # SB3 writes into the policy_kwargs that it is given
    model = algorithm.make("MlpPolicy", env, seed=seed, device="cpu", verbose=0, **settings)

    if initial is not None:
        fresh = {key: value for key, value in model.policy.state_dict().items() if key == LOG_STD}
        model.policy.load_state_dict(initial.policy.state_dict() | fresh)

    model.set_logger(configure(str(log_dir), ["csv"]) if log_dir else Logger(None, []))
    return model


def load_model(name: str, path: str | Path, env: VecEnv) -> BaseAlgorithm:
    """A model from SB3's own zip: its networks, optimizers and count of steps; the settings are those of `make_model`.

    SB3's own loader also unpickles the settings, which would execute whatever a foreign file brings along.

    Args:
        name: in ALGORITHMS.
        path: the zip.
        env: what it acts in; not stepped.

    Raises:
        ValueError: missing, damaged, or not such a model.
    """
    model = make_model(name, env, seed=0)

    # A damaged or foreign file fails in many ways, each of which means the same to the user.
    try:
        _check_sizes(path)
        _, parameters, _ = load_from_zip_file(path, load_data=False, device="cpu")
        model.set_parameters(parameters, device="cpu")
        with zipfile.ZipFile(path) as archive:
            model.num_timesteps = _count_of_steps(json.loads(archive.read("data")))
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{path} is not a model of SB3's {name}: {what}") from None

    for part, value in model.policy.state_dict().items():
        if value.is_floating_point() and bool(value.isnan().any()):
            raise ValueError(f"{path} is not a model of SB3's {name}: {part} holds a value that is not a number")
    return model


_MOST_BYTES = 2**30
"""Of one part of a zip: a small file may claim to hold more than any memory does."""


def _check_sizes(path: str | Path) -> None:
    """Refuse a zip with a part that is no network's.

    Raises:
        ValueError: names the part.
    """
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.file_size > _MOST_BYTES:
                raise ValueError(f"{part.filename} takes {part.file_size / 1e9:.1f} GB")


def _count_of_steps(data: Any) -> int:
    """The environment steps that a model has been trained for, in its zip's "data"."""
    count = data["num_timesteps"]
    if type(count) is not int or count < 0:
        raise ValueError(f"num_timesteps must be a whole number, got {count!r:.60}")
    return count


def learn_with_evaluations(
    model: BaseAlgorithm, schedule: Sequence[int], evaluate: Callable[[BaseAlgorithm], Result]
) -> list[tuple[int, Result]]:
    """Train, and evaluate on the way.

    A policy is evaluated between its updates, when it has learned from all the steps counted: at the first such
    moment at or after each count of the schedule.

    Args:
        model: trains for the schedule's last count of environment steps, or up to its own batch size more.
        schedule: environment steps, ascending; 0 means before training.
        evaluate: called with the model; must not change it.

    Returns:
        (environment steps, result) for each evaluation; counts that fall on one moment share it.
    """
    callback = _Evaluations(schedule, evaluate)
    model.learn(schedule[-1], callback=callback)
    callback.evaluate_if_due(model.num_timesteps)
    return callback.results


class _Evaluations(BaseCallback):
    """Evaluates before each rollout, that is after each update."""

    def __init__(self, schedule: Sequence[int], evaluate: Callable[[BaseAlgorithm], Any]) -> None:
        super().__init__()
        self._due = list(schedule)
        self._evaluate = evaluate
        self.results: list[tuple[int, Any]] = []

    def _on_rollout_start(self) -> None:
        self.evaluate_if_due(self.num_timesteps)

    def _on_step(self) -> bool:
        return True

    def evaluate_if_due(self, env_steps: int) -> None:
        """Evaluate where the schedule asks for it."""
        if self._due and env_steps >= self._due[0]:
            self.results.append((env_steps, self._evaluate(self.model)))
            self._due = [count for count in self._due if count > env_steps]


@dataclass(frozen=True)
class ObservationScale:
    """Normalises observations as a trained policy of this project does: clip((o − shift) · factor, ±10).

    Attributes:
        shift: of each observation, O of them, or one for all.
        factor: likewise.
    """

    shift: tuple[float, ...]
    factor: tuple[float, ...]

    @classmethod
    def of(cls, normalizer: ObservationNormalizer) -> "ObservationScale":
        """That of a policy, as it is now."""
        shift, factor = normalizer.shift_and_factor
        return cls(tuple(shift.tolist()), tuple(factor.tolist()))

    def __call__(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a model sees of (…, O)."""
        scaled = (obs - np.array(self.shift, np.float32)) * np.array(self.factor, np.float32)
        clipped: NDArray[np.float32] = np.clip(scaled, -CLIP, CLIP)
        return clipped


class ScaledVecEnv(VecEnvWrapper):
    """A VecEnv whose observations, also the last ones of episodes, are normalised by numbers that do not change.

    Args:
        venv: the environments.
        scale: the numbers.
    """

    def __init__(self, venv: VecEnv, scale: ObservationScale) -> None:
        assert venv.observation_space.shape is not None
        space = Box(-CLIP, CLIP, venv.observation_space.shape, np.float32)
        super().__init__(venv, observation_space=space)
        self._scale = scale

    def reset(self) -> NDArray[np.float32]:
        """See VecEnv.reset."""
        return self._scale(cast("NDArray[np.float32]", self.venv.reset()))

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """See VecEnv.step_wait."""
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self._scale(info["terminal_observation"])
        return self._scale(cast("NDArray[np.float32]", obs)), rewards, dones, infos


class SB3Policy:
    """A model as an ActingPolicy for `collect`; acts deterministically, as SB3's own evaluation does.

    Args:
        model: any SB3 algorithm on a Box observation space (O,).
        scale: what the model sees of observations; None: they as they are.
    """

    def __init__(self, model: BaseAlgorithm, scale: ObservationScale | None = None) -> None:
        self.model = model
        self._scale = scale

    def apply(self, params: Parameters, obs: Tensor, memory: Any = None) -> tuple[FixedActions, None]:
        """See ActingPolicy.apply; the parameters are the model's own."""
        flat = obs.reshape(-1, obs.shape[-1]).cpu().numpy()
        if self._scale is not None:
            flat = self._scale(flat)
        action, _ = self.model.predict(flat, deterministic=True)
        shape = (*obs.shape[:-1], *action.shape[1:])
        return FixedActions(torch.as_tensor(np.asarray(action)).reshape(shape)), None


def as_policy_parameters(model: BaseAlgorithm) -> Parameters:
    """The actor of PPO or A2C as shared P of an MLPPolicy with the same hidden layers.

    Raises:
        ValueError: another algorithm, whose policy is of another kind.
    """
    policy = model.policy
    if not isinstance(model, OnPolicyAlgorithm) or not isinstance(policy, ActorCriticPolicy):
        raise ValueError(f"only PPO and A2C have a stochastic policy like ours, not {type(model).__name__}")

    params = {}
    hidden = [layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, nn.Linear)]
    for number, layer in enumerate([*hidden, cast(nn.Linear, policy.action_net)]):
        params[f"layer{number}.weight"] = layer.weight.detach().T.clone()  # torch keeps (out, in), MLPPolicy (in, out)
        params[f"layer{number}.bias"] = layer.bias.detach().clone()

    if isinstance(model.action_space, Box):
        params[LOG_STD] = policy.log_std.detach().clone()
    return params
