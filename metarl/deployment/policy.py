"""A policy adapted to one task, which acts on its own: `predict` as in Stable-Baselines3, and a directory of files.

DIR/
policy.safetensors  parameters
policy.json         network, spaces, and the model card: task, returns, steps, parent run, versions
README.md           the model card to read
policy.pt2          the deterministic policy as a torch.export program
policy.onnx         the same as ONNX
memory.npz          where it learns in its memory: what it remembers when a trial begins
"""

import io
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import torch
from gymnasium.spaces import Space
from gymnasium.spaces.utils import flatdim
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize_tensors

from metarl.agents.learner import Policy
from metarl.agents.policies.cnn import CNNPolicy, make_policy
from metarl.agents.policies.memory.base import MemoryPolicy, RecurrentConfig
from metarl.agents.policies.memory.fast_weights import FastWeightPolicy
from metarl.agents.policies.memory.make import make_memory_policy
from metarl.agents.policies.memory.recurrent import RecurrentPolicy
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters, map_parameters, shapes_of
from metarl.deployment import export, model_card
from metarl.deployment.memory_program import MemoryPolicyModule, read_memory, write_memory
from metarl.envs.external.space_json import space_from_json, space_to_json
from metarl.envs.rollout import ActingPolicy, ObservingPolicy
from metarl.envs.spaces.action_map import DEFAULT_SCALE, OWN_UNITS, ActionMap, PolicySpace
from metarl.envs.spaces.observation import vector_space
from metarl.envs.spaces.observation_reader import ObservationReader, UnfitEnvError
from metarl.envs.spaces.precision import own_torch_settings
from metarl.errors import UserError
from metarl.run.files import new_directory, read_file
from metarl.run.schema import load_json, parse

FORMAT = "metarl-policy-1"
PARAMETERS_FILE = "policy.safetensors"
DESCRIPTION_FILE = "policy.json"
CARD_FILE = "README.md"
PROGRAM_FILE = "policy.pt2"
ONNX_FILE = "policy.onnx"
MEMORY_FILE = "memory.npz"

State = tuple[NDArray[Any], ...] | None
"""Memory of a recurrent policy between two calls of `predict`, arrays (N, …); None where there is none.

Of a policy that learns in its memory also what it did last, and what `observe` said that it earned.
"""


class SpecialisedPolicy:
    """One policy for one task.

    Args:
        network: the functional policy.
        params: shared P.
        observation_space: of the environment itself; flattened to a vector (O,) for the network.
        action_space: of the environment itself.
        network_actions: the network's action space, from which an `ActionMap` leads to the environment's.
        card: where it comes from and how well it does, plain data for JSON; its "action_limit" is the share of the
            range of actions that the policy may use (1 where it says nothing).
        action_scale: span of actions where a Box has no bounds, see `metarl.envs.spaces.action_map`.
        memory: of a network that learns in its memory, what it remembers of the task, leaves (1, …); None: nothing.

    Attributes:
        observation_space: as above.
        action_space: as above.
        card: as above.
        learns: whether it learns in its memory from what it earns; then `observe` follows each step.
    """

    @own_torch_settings()
    def __init__(
        self,
        network: ActingPolicy,
        params: Parameters,
        observation_space: Space[Any],
        action_space: Space[Any],
        network_actions: PolicySpace,
        card: dict[str, Any],
        action_scale: float = DEFAULT_SCALE,
        memory: export.Memory = None,
    ) -> None:
        self.network = network
        self.params = map_parameters(lambda leaf: leaf.detach().cpu().contiguous(), params)
        self.observation_space = observation_space
        self.action_space = action_space
        self.card = card

        self._network_actions = network_actions
        self._size = flatdim(observation_space)
        self._reader = ObservationReader(observation_space)
        self._action_scale = action_scale
        actions = ActionMap.between(network_actions, action_space, action_scale)
        actions = actions.limited(card.get("action_limit", 1.0))

        self.learns = isinstance(network, ObservingPolicy)
        kind = MemoryPolicyModule if self.learns else export.PolicyModule
        self._module = kind(network, self.params, actions, self._size)
        self._start: tuple[torch.Tensor, ...] = ()
        if isinstance(self._module, MemoryPolicyModule):
            self._start = self._module.start(memory)
        self._generator = torch.Generator().manual_seed(0)

    @own_torch_settings()
    def predict(
        self,
        observation: Any,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], State]:
        """Actions, as Stable-Baselines3's `predict` gives them.

        Args:
            observation: one of the observation space, or N of them as vector environments give them.
            state: what the call before returned; None at the start.
            episode_start: which of the N begin a new episode, (N,); their state is reset. A policy that learns in its
                memory goes on with what it remembers instead; it begins anew where `state` is None.
            deterministic: whether to take the most likely action, as the exported programs do, or to sample one. (The
                default in SB3 is False.)

        Returns:
            Actions of the action space, one or N, and the state for the next call.

        Raises:
            ValueError: the observation is not of the space, in the sense of `ObservationReader`, or holds a number
                that is not finite; or the policy learns in its memory, and `observe` was not called after its last
                step.
        """
        obs, single = self._vectors(observation)
        if isinstance(self._module, MemoryPolicyModule):
            actions, next_state = self._predict_learning(self._module, obs, state, episode_start, deterministic)
            return actions[0] if single else actions, next_state

        memory: list[torch.Tensor] = [torch.as_tensor(leaf).clone() for leaf in state or ()]
        if episode_start is not None:
            starts = torch.as_tensor(np.asarray(episode_start, bool))
            for leaf in memory:
                leaf[starts] = 0

        with torch.no_grad():
            chosen, _, following = self._module.act(obs, memory, None if deterministic else self._generator)

        actions = chosen.numpy().astype(self.action_space.dtype)
        next_state = tuple(leaf.numpy() for leaf in following) or None
        return actions[0] if single else actions, next_state

    def _predict_learning(
        self,
        module: MemoryPolicyModule,
        obs: torch.Tensor,
        state: State,
        episode_start: NDArray[np.bool_] | None,
        deterministic: bool,
    ) -> tuple[NDArray[Any], State]:
        """`predict` of a policy that learns in its memory, for obs (N, O)."""
        *before, reward, terminated, observed = map(torch.as_tensor, state or self.reset(len(obs)) or ())
        if bool((before[-1] & ~observed).any()):
            raise ValueError(
                "this policy learns from what it earns: call state = policy.observe(state, reward, terminated) "
                "after each step of the environment"
            )

        begins = torch.zeros(len(obs), dtype=torch.bool)
        if episode_start is not None:
            begins = torch.as_tensor(np.asarray(episode_start, bool)).reshape(-1)
        with torch.no_grad():
            earned = (reward, terminated, begins)
            chosen, _, following = module.step(obs, before, earned, None if deterministic else self._generator)

        waiting = (torch.zeros(len(obs)), *torch.zeros(2, len(obs), dtype=torch.bool))
        actions = chosen.numpy().astype(self.action_space.dtype)
        return actions, tuple(leaf.numpy() for leaf in (*following, *waiting))

    @own_torch_settings()
    def reset(self, num: int = 1) -> State:
        """The state at the beginning of N trials of a task: what the policy remembers of it, or nothing.

        A policy that does not learn in its memory has none: None.
        """
        if not self.learns:
            return None
        start = [leaf.expand(num, *leaf.shape[1:]).numpy().copy() for leaf in self._start]
        return (*start, np.zeros(num, np.float32), np.zeros(num, bool), np.zeros(num, bool))

    def observe(self, state: State, reward: Any, terminated: Any = False) -> State:
        """The state after a step of the environment, for the next call of `predict`.

        Args:
            state: what `predict` returned.
            reward: what the step earned, a number or (N,).
            terminated: whether it ended the episode, other than by a time limit; bool or (N,).

        Raises:
            ValueError: the reward is not finite, or there are not as many as trials.
        """
        if state is None or not self.learns:
            return state
        *before, _, _, observed = state
        rewards = np.asarray(reward, np.float32)
        if not bool(np.isfinite(rewards).all()):
            raise ValueError(f"the reward {reward!r} is not finite")

        try:
            earned = np.broadcast_to(rewards, observed.shape).copy()
            ended = np.broadcast_to(np.asarray(terminated, bool), observed.shape).copy()
        except ValueError:
            raise ValueError(f"reward and terminated must be of {len(observed)} trials, got {reward!r}") from None
        return (*before, earned, ended, np.ones_like(observed))

    def set_random_seed(self, seed: int) -> None:
        """Seed the actions that `predict` samples."""
        self._generator.manual_seed(seed)

    @own_torch_settings()
    def save(self, path: str | Path, onnx: bool = True) -> list[Path]:
        """Write the policy to a new directory, which appears whole or not at all; returns its files.

        Args:
            path: the directory; it must not exist.
            onnx: whether to write the ONNX file, which needs the extra "export".

        Raises:
            UserError: the directory exists or cannot be written.

        Warns:
            UserWarning: the packages for ONNX are missing, and all but that file is written.
        """
        missing = export.missing_for_onnx() if onnx else ""
        if missing:
            warnings.warn(f"policy.onnx is left out; {missing}", stacklevel=2)

        with new_directory(Path(path)) as directory:
            names = self.write(directory, onnx and not missing)
        return [Path(path) / name for name in names]

    @own_torch_settings()
    def remember(self, file: Path) -> None:
        """Begin trials with the memory in a file that `write` wrote; a policy without such memory needs none.

        Raises:
            UserError: it cannot be read, or is the memory of another policy; names the file.
        """
        if isinstance(self._module, MemoryPolicyModule):
            self._start = read_memory(file, self._module)

    @own_torch_settings()
    def write(self, directory: Path, onnx: bool = True) -> list[str]:
        """Write the files to a directory that exists; returns their names."""
        program = export.export_program(self._module)
        # In memory first: where it meets a full disk, PyTorch ends the process.
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        (directory / PROGRAM_FILE).write_bytes(buffer.getvalue())
        card = {**self.card, "inputs": self._module.input_names, "outputs": self._module.output_names}

        if onnx:
            export.write_onnx(self._module, program, directory / ONNX_FILE)
            # The card says how close the file's actions are, measured on random observations.
            probes = self._random_observations(256)
            card["onnx_difference"] = export.onnx_difference(self._module, directory / ONNX_FILE, probes)

        if isinstance(self._module, MemoryPolicyModule):
            write_memory(directory / MEMORY_FILE, self._module, self._start)
            card["remembers"] = any(bool(leaf.any()) for leaf in self._start)

        (directory / PARAMETERS_FILE).write_bytes(serialize_tensors(self.params, {"format": FORMAT}))
        description = {
            "format": FORMAT,
            "network": _network_to_json(self.network),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "network_actions": space_to_json(self._network_actions),
            "action_scale": self._action_scale,
            **card,
        }
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        (directory / CARD_FILE).write_text(model_card.markdown(description), encoding="utf-8")
        return sorted(file.name for file in directory.iterdir())

    def _random_observations(self, count: int) -> NDArray[np.float32]:
        """Observations (N, O), around what the network saw in training where it normalises them."""
        noise = np.random.default_rng(0).normal(size=(count, self._size)).astype(np.float32)
        normalizer = getattr(self.network, "observations", None)
        if normalizer is None or not normalizer.active:
            return noise

        shift, factor = (numbers.cpu().numpy() for numbers in normalizer.shift_and_factor)
        spread: NDArray[np.float32] = (shift + noise / np.where(factor == 0, 1, factor)).astype(np.float32)
        return spread

    def _vectors(self, observation: Any) -> tuple[torch.Tensor, bool]:
        """Observations as (N, O), and whether it was a single one.

        Raises:
            ValueError: the observation is not of the space.
        """
        try:
            rows, single = self._reader.rows(observation)
        except UnfitEnvError as error:
            raise ValueError(f"the policy cannot act: {error.reason}") from None
        return torch.from_numpy(rows), single


@own_torch_settings()
def load_policy(path: str | Path, network: Policy | None = None) -> SpecialisedPolicy:
    """Read what `SpecialisedPolicy.save` or `metarl adapt` wrote; never executes or imports what a file names.

    Args:
        path: the directory.
        network: of an agent of your own, its functional policy, made as the agent makes it. The networks of this
            project are built from what policy.json says of them: None.

    Raises:
        UserError: there is no policy, it is corrupt, or the network is another; names the file.
    """
    description_file = Path(path) / DESCRIPTION_FILE
    parameters_file = Path(path) / PARAMETERS_FILE
    try:
        description = load_json(read_file(description_file).decode())
        if not isinstance(description, dict) or description.pop("format", None) != FORMAT:
            raise UserError("it does not describe a policy of this program")
        spaces, policy = _parse_description(description, network)
    except OSError as error:
        raise UserError(f"{path} is not a policy: {error}") from None
    except OwnNetworkError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{description_file} is damaged: {error}") from None

    params = _read_parameters(parameters_file)
    # A file of another network would fail much later, with an error that names no file.
    if shapes_of(params) != _shapes_of_network(policy):
        raise UserError(f"{parameters_file} does not hold the parameters of the network in {description_file}")
    try:
        # Policies of earlier versions know no scale: what they do must stay as it was.
        action_scale = description.pop("action_scale", OWN_UNITS)
        loaded = SpecialisedPolicy(policy, params, **spaces, card=description, action_scale=action_scale)  # type: ignore[arg-type]
        loaded.remember(Path(path) / MEMORY_FILE)
        return loaded
    except UserError:
        raise
    except (ValueError, TypeError, AssertionError, IndexError) as error:
        raise UserError(f"{description_file} is damaged: {error}") from None


def _shapes_of_network(network: Policy) -> dict[str, tuple[int, ...]]:
    """Shapes of its parameters; one that a damaged file describes may be too large to be made."""
    if isinstance(network, MLPPolicy | MemoryPolicy) and type(network) in _KINDS.values():
        return network.shapes
    return shapes_of(network.init(torch.Generator()))


class OwnNetworkError(UserError):
    """A policy's network is the user's own, and was not given."""


@dataclass(frozen=True)
class _Network:
    """The network in policy.json; of a user's own "module:Name" as its kind, and no sizes."""

    kind: str
    hidden_sizes: tuple[int, ...] | None = None
    activation: Literal["tanh", "relu"] | None = None
    recurrent: RecurrentConfig | None = None
    observation_shift: tuple[float, ...] | None = None
    observation_factor: tuple[float, ...] | None = None


class _Card(TypedDict):
    """What of the model card decides how the policy acts, and the units that its table shows."""

    action_limit: NotRequired[float]
    action_scale: NotRequired[float]
    units: NotRequired[dict[str, str]]


def _parse_description(description: dict[str, Any], own: Policy | None) -> tuple[dict[str, Space[Any]], Policy]:
    """Spaces and network, which are taken out of what policy.json holds.

    Args:
        description: what it holds.
        own: the network, where it is none of this project.

    Raises:
        ValueError: they are missing or damaged; names the field.
    """
    for key in ("network", *_SPACES):
        if key not in description:
            raise UserError(f"{key}: is missing")

    network = parse(description.pop("network"), _Network, "network")
    spaces = {}
    for key in _SPACES:
        try:
            spaces[key] = space_from_json(description.pop(key))
        except ValueError as error:
            raise UserError(f"{key}: {error}") from None
    parse(description, _Card)
    return spaces, _network_from_json(network, spaces, own)


def _read_parameters(file: Path) -> Parameters:
    """The tensors in policy.safetensors.

    Raises:
        UserError: they cannot be read, or are no numbers; names the file.
    """
    try:
        params: Parameters = read_tensors(read_file(file))
    except OSError as error:
        raise UserError(f"{file.parent} is not a policy: {error}") from None
    except (SafetensorError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise UserError(f"{file} is truncated or corrupt: {error}") from None

    for name, value in params.items():
        if value.dtype != torch.float32:
            raise UserError(f"{file}: {name} must be of type float32, got {value.dtype}")
        if not bool(value.isfinite().all()):
            raise UserError(f"{file}: {name} holds a number that is not finite")
    return params


_SPACES = ("observation_space", "action_space", "network_actions")


_KINDS = {kind.__name__: kind for kind in (MLPPolicy, CNNPolicy, RecurrentPolicy, FastWeightPolicy)}
"""Networks of this project, which are built from what policy.json says of them; classes derived from them are not."""


def _network_to_json(network: ActingPolicy) -> dict[str, Any]:
    """What `load_policy` needs to build it again; of a user's own only where it is defined."""
    kind = type(network)
    described: dict[str, Any] = {"kind": kind.__name__}
    if kind not in _KINDS.values():
        described["kind"] = f"{kind.__module__}:{kind.__qualname__}"
    elif isinstance(network, MemoryPolicy):
        described |= {"hidden_sizes": list(network.config.hidden_sizes), "recurrent": asdict(network.config)}
    elif isinstance(network, MLPPolicy):
        described |= {"hidden_sizes": list(network.config.hidden_sizes), "activation": network.config.activation}

    observations = getattr(network, "observations", None)
    if observations is not None and observations.active:
        shift, factor = observations.shift_and_factor
        described["observation_shift"] = shift.tolist()
        described["observation_factor"] = factor.tolist()
    return described


def _network_from_json(network: _Network, spaces: dict[str, Space[Any]], own: Policy | None) -> Policy:
    """Inverse of `_network_to_json`, with the user's own network where it is one."""
    if network.kind not in _KINDS:
        policy: Any = _require_own(network, own)
    elif own is not None:
        raise UserError(f"network.kind: is {network.kind}, which is built from this file; give no network")
    else:
        policy = _build_network(network, spaces)

    if network.observation_shift is not None and network.observation_factor is not None:
        shift = torch.tensor(network.observation_shift, dtype=torch.float32)
        factor = torch.tensor(network.observation_factor, dtype=torch.float32)
        policy.observations.set(shift, factor)
    built: Policy = policy
    return built


def _require_own(network: _Network, own: Policy | None) -> Policy:
    """The user's own network.

    Raises:
        UserError: it was not given, or the file means one of this project.
    """
    if network.hidden_sizes is not None:
        raise UserError(f"network.kind: must be one of {', '.join(_KINDS)}, got {network.kind!r}")
    if own is None:
        name = network.kind.rpartition(":")[2]
        raise OwnNetworkError(
            f"its network {network.kind} is your own: give it as load_policy(DIR, {name}(…)), made as your agent "
            f"makes it, or run {ONNX_FILE} or {PROGRAM_FILE}, which need none of it"
        )
    if network.observation_shift is not None and not hasattr(own, "observations"):
        raise UserError(f"the network normalised its observations, and {type(own).__name__} has no `observations`")
    return own


def _build_network(network: _Network, spaces: dict[str, Space[Any]]) -> MLPPolicy | MemoryPolicy:
    """A network of this project."""
    if network.hidden_sizes is None:
        raise UserError("network.hidden_sizes: is missing")
    vector = vector_space(spaces["observation_space"], "the policy")
    if network.kind in ("RecurrentPolicy", "FastWeightPolicy"):
        if network.recurrent is None:
            raise UserError("network.recurrent: is missing")
        return make_memory_policy(vector, spaces["network_actions"], network.recurrent)

    if network.activation is None:
        raise UserError("network.activation: is missing")
    kind: Literal["cnn", "mlp"] = "cnn" if network.kind == CNNPolicy.__name__ else "mlp"
    config = PolicyConfig(network.hidden_sizes, network.activation, policy=kind)
    return make_policy(vector, spaces["network_actions"], config)
