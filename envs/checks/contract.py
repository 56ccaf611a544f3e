"""What the methods of a TaskEnv must return; each is called once, and the first that returns something else is named.

A tensor of another shape is seldom an error in torch: it is broadcast, and training goes on with other numbers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from metarl.envs.checks.trace import random_actions
from metarl.envs.env_family import EnvFamily, require_horizon
from metarl.envs.external.worker_pool import reason_of
from metarl.envs.spaces.action_map import ActionMap, TensorActionMap
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Task, num_tasks_of, select_tasks


class ContractError(ValueError):
    """A method of an environment returns something else than it must; names environment, method and both shapes."""


def check_spaces(env: EnvFamily) -> None:
    """Refuse a family without a length of episodes, or with observations that are no tensor.

    Raises:
        ContractError: names the attribute, its value and what is allowed.
    """
    label = type(env).__name__
    try:
        require_horizon(env)
    except ValueError as error:
        raise ContractError(str(error)) from None

    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), Space):
            raise ContractError(f"{label}.{name} must be a space of Gymnasium, got {getattr(env, name, None)!r}")

    if isinstance(env, TaskEnv) and not isinstance(env.observation_space, Box):
        raise ContractError(
            f"{label}.observation_space must be a Box (O,), got {env.observation_space}; put all fields into one "
            "tensor: torch.cat([…], dim=-1)"
        )


def check_task_env(env: TaskEnv, tasks: Task, num_episodes: int) -> None:
    """Call every method once for M tasks × E episodes, as training does, and refuse what does not fit.

    Args:
        env: the family.
        tasks: M of them.
        num_episodes: E.

    Raises:
        ContractError: a method raises, writes into its arguments, or returns another type, shape or dtype.
    """
    check_spaces(env)
    params: Task = {}
    for name, value in tasks.items():
        params[name] = value.unsqueeze(1).expand(value.shape[0], num_episodes, *value.shape[1:])
    _Trial(env, params, (num_tasks_of(tasks), num_episodes), ("M", "E")).run()


def check_single(env: TaskEnv, tasks: Task) -> None:
    """The same for one environment without batch dimensions, which `gymnasium.make` and videos take.

    Args:
        env: the family.
        tasks: M of them, of which the first is taken.

    Raises:
        ContractError: as `check_task_env`.
    """
    check_spaces(env)
    _Trial(env, select_tasks(tasks, 0), (), ()).run()


class _Trial:
    """One step of an environment, method by method.

    Args:
        env: the family.
        params: the tasks, leaves (*batch, …).
        batch: the leading dimensions.
        symbols: their names.
    """

    def __init__(self, env: TaskEnv, params: Task, batch: tuple[int, ...], symbols: tuple[str, ...]) -> None:
        self.env = env
        self.params = params
        self.batch = batch
        self.symbols = symbols
        self.label = type(env).__name__
        device = next(iter(params.values())).device
        self.rng = torch.Generator(device).manual_seed(0)
        self.action = _some_actions(env.action_map, batch).to(device)

    @torch.no_grad()
    def run(self) -> None:
        """Take the step."""
        state = self._call("initial")
        self._require_state("initial", state)
        self._require_observation("observation", self._call("observation", state))

        after = self._call("transition", state, self.action)
        self._require_state("transition", after)
        self._require_same_leaves(state, after)

        self._require_reward("reward", self._call("reward", state, self.action, after))
        self._require_observation("observation", self._call("observation", after))
        self._require_terminal("terminal", self._call("terminal", after))

        # A family may define all of it at once.
        if type(self.env).step is not TaskEnv.step:
            self._require_step(state, self._call("step", state, self.action))

    def _call(self, method: str, *arguments: Any) -> Any:
        """What a method returns.

        Raises:
            ContractError: it raises, or writes into its arguments.
        """
        given = {"a state or the action": arguments, "params": self.params}
        before = {name: _versions(values) for name, values in given.items()}
        call = getattr(self.env, method)
        try:
            # `initial` takes the generator first, the others last but one.
            returned = call(*arguments, self.rng, self.params)
        except NotImplementedError as error:
            if str(error):
                raise self._raised(method, error) from error
            raise ContractError(f"{self.label} does not define {method}()") from error
        except Exception as error:
            raise self._raised(method, error) from error

        for name, values in given.items():
            if _versions(values) != before[name]:
                raise ContractError(
                    f"{self.label}.{method} writes into its arguments ({name}); return new tensors instead"
                )
        return returned

    def _raised(self, method: str, error: Exception) -> ContractError:
        of_batch = f"{self._named()} = {self.batch}"
        return ContractError(f"{self.label}.{method} failed for {of_batch}: {' '.join(reason_of(error).split())}")

    # What each returns

    def _require_state(self, method: str, state: State) -> None:
        """A tensor or a dict of tensors, each with the batch's leading dimensions."""
        if isinstance(state, Mapping) and not state:
            raise ContractError(f"{self.label}.{method} must return a tensor or a dict of tensors, got an empty dict")

        for name, leaf in _leaves(state):
            what = f"a state whose {name!r} is" if name else "a state"
            wanted = f"{self._named('…')} = {_open_shape(self.batch)}"
            if not isinstance(leaf, Tensor):
                got = _kind(leaf)
            elif tuple(leaf.shape[: len(self.batch)]) != self.batch:
                got = str(tuple(leaf.shape))
            else:
                continue
            raise ContractError(f"{self.label}.{method} must return {what} {wanted}, got {got}")

    def _require_same_leaves(self, before: State, after: State) -> None:
        """The next state has the leaves of the first one, with their shapes and dtypes."""
        first, second = dict(_leaves(before)), dict(_leaves(after))
        if first.keys() != second.keys():
            raise ContractError(
                f"{self.label}.transition must return a state like that of initial, {_names(first)}; got "
                f"{_names(second)}"
            )

        for name, leaf in first.items():
            of_leaf = f" of {name!r}" if name else ""
            following = second[name]
            kept = (
                ("shape", tuple(leaf.shape), tuple(following.shape)),
                ("dtype", leaf.dtype, following.dtype),
            )
            for what, wanted, got in kept:
                if wanted != got:
                    raise ContractError(
                        f"{self.label}.transition must keep the {what}{of_leaf} that initial gives: {wanted}, got {got}"
                    )

    def _require_observation(self, method: str, obs: Any) -> None:
        space = self.env.observation_space
        names = "O" if len(space.shape) == 1 else str(space.shape)[1:-1]
        if isinstance(obs, Mapping):
            wanted = self._wanted(names, space.shape)
            raise ContractError(
                f"{self.label}.{method} must return a tensor {wanted}, got a dict; put its fields into one tensor: "
                "torch.cat([…], dim=-1)"
            )
        dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
        self._require_tensor(method, obs, names, space.shape, dtype)

    def _require_reward(self, method: str, reward: Any) -> None:
        self._require_tensor(method, reward, "", (), torch.float32)

    def _require_terminal(self, method: str, terminated: Any) -> None:
        """Bool; what is the same along a dimension may have the size 1 there."""
        if isinstance(terminated, Tensor) and terminated.dtype is torch.bool:
            aligned = terminated.numel() == 1 or terminated.ndim == len(self.batch)
            if aligned and _expands(terminated, self.batch):
                return
        self._require_tensor(method, terminated, "", (), torch.bool)

    def _require_step(self, state: State, returned: Any) -> None:
        """What a family's own `step` gives."""
        if not (isinstance(returned, tuple) and len(returned) == 4):
            raise ContractError(
                f"{self.label}.step must return (next state, observation, reward, terminated), got {_kind(returned)}"
            )
        after, obs, reward, terminated = returned
        self._require_state("step", after)
        self._require_same_leaves(state, after)
        self._require_observation("step", obs)
        self._require_reward("step", reward)
        self._require_tensor("step", terminated, "", (), torch.bool)

    def _require_tensor(self, method: str, value: Any, names: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Refuse anything but a tensor (*batch, *shape) of this dtype."""
        wanted = self._wanted(names, shape)
        where = f"{self.label}.{method} must return"
        if not isinstance(value, Tensor):
            raise ContractError(f"{where} a tensor {wanted}, got {_kind(value)}")

        got = tuple(value.shape)
        if got != (*self.batch, *shape):
            hint = "; take the last dimension off: .squeeze(-1)" if got == (*self.batch, *shape, 1) else ""
            raise ContractError(f"{where} {wanted}, got {got}{hint}")
        if value.dtype is not dtype:
            way = "compare, as in x > 1" if dtype is torch.bool else f"convert it with .to({dtype})"
            raise ContractError(f"{where} {dtype}, got {value.dtype}; {way}")

    def _wanted(self, names: str, shape: tuple[int, ...]) -> str:
        """A shape in symbols and numbers: "(M, E, O) = (40, 20, 2)"."""
        return f"{self._named(names)} = {(*self.batch, *shape)}"

    def _named(self, names: str = "") -> str:
        """The dimensions' names: "(M, E, O)"."""
        return f"({', '.join([*self.symbols, *([names] if names else [])])})"


def _some_actions(action_map: ActionMap, batch: tuple[int, ...]) -> Tensor:
    """Actions that a policy may play, as the environment gets them: (*batch, …) of its own space."""
    count = int(np.prod(batch, dtype=np.int64))
    drawn = random_actions(action_map.policy, (1, 1), count, seed=0)[0, 0]
    actions = drawn.reshape((*batch, *(action_map.policy.shape or ())))
    if action_map.is_identity:
        return actions
    native: Tensor = TensorActionMap(action_map)(actions)
    return native


def _leaves(state: State) -> Iterator[tuple[str, Any]]:
    """Name and value of each part of a state; "" where it is a single tensor."""
    if isinstance(state, Mapping):
        yield from ((str(name), leaf) for name, leaf in state.items())
    else:
        yield "", state


def _versions(values: Any) -> list[tuple[int, int]]:
    """How often each tensor in nested tuples and dicts was written to."""
    if isinstance(values, Tensor):
        return [(id(values), values._version)]
    if isinstance(values, Mapping):
        values = tuple(values.values())
    if not isinstance(values, tuple):
        return []

    versions = []
    for value in values:
        versions += _versions(value)
    return versions


def _names(leaves: Mapping[str, Any]) -> str:
    return "a tensor" if list(leaves) == [""] else f"a dict of {sorted(leaves)}"


def _kind(value: Any) -> str:
    """What something that should be a tensor is."""
    if isinstance(value, np.ndarray):
        return f"a numpy array {value.shape}"
    return f"{type(value).__name__} {' '.join(str(value).split())[:60]}"


def _expands(value: Tensor, batch: tuple[int, ...]) -> bool:
    """Whether it can be broadcast to the batch's shape."""
    try:
        value.expand(batch)
    except RuntimeError:
        return False
    return True


def _open_shape(batch: tuple[int, ...]) -> str:
    """Leading dimensions and any others: "(40, 20, …)"."""
    return f"({', '.join([*map(str, batch), '…'])})"
