"""TaskEnv: one definition of a parameterized environment, in torch, for training, Gymnasium and SB3 alike."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.env_family import EnvFamily, PicturedEnv
from metarl.envs.rollout import ActingPolicy
from metarl.envs.rollout_graphs import Capture, RolloutGraphs, cuda_graph
from metarl.envs.task_space import Task, num_tasks_of

State = Any
"""State of a TaskEnv: a tensor or a dict of named tensors, leaves (*batch, …)."""


class TaskEnv(FuncEnv[State, Tensor, Tensor, Tensor, Tensor, Any, Task], EnvFamily):
    """A Gymnasium FuncEnv whose `params` are the task, written in torch over any leading batch dimensions.

    A subclass sets the attributes and writes `initial`, `transition` and `reward`; the other methods have
    defaults. Every method is rank-polymorphic: states, actions and task parameters arrive as (*batch, …) with the
    same leading dimensions (none in a single Gymnasium environment, (M, E) in training), so a method has no
    Python branch on data. `rng` is a `torch.Generator` on the task's device. A method must not write into its
    arguments.

    Attributes:
        random_steps: whether anything but `initial` draws random numbers.
        rollout_graphs: what `capture_rollouts` set up.
    """

    observation_space: Box
    action_space: Box | Discrete
    random_steps: bool = False
    rollout_graphs: RolloutGraphs | None = None

    def initial(self, rng: torch.Generator, params: Task | None = None) -> State:
        """State at the start of an episode, (*batch, …), where *batch leads the shape of every task parameter."""
        raise NotImplementedError

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task | None = None) -> State:
        """Next state for an action of shape (*batch, A), or (*batch,) integers in a Discrete space."""
        raise NotImplementedError

    def observation(self, state: State, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """What the agent sees of a state, (*batch, O). Default: the state itself. It must not hold the task."""
        assert isinstance(state, Tensor), "an environment whose state is a dict must define observation()"
        return state

    def reward(
        self,
        state: State,
        action: Tensor,
        next_state: State,
        rng: torch.Generator,
        params: Task | None = None,
    ) -> Tensor:
        """Reward of a transition, (*batch,)."""
        raise NotImplementedError

    def terminal(self, state: State, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """Whether a state ends the episode, bool, broadcastable to (*batch,). Default: never."""
        assert params is not None
        return torch.zeros((), dtype=torch.bool, device=next(iter(params.values())).device)

    def step(
        self, state: State, action: Tensor, rng: torch.Generator, params: Task
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of everything: next state, obs (*batch, O), reward (*batch,), terminated bool (*batch,)."""
        next_state = self.transition(state, action, rng, params)
        reward = self.reward(state, action, next_state, rng, params)
        terminated = self.terminal(next_state, rng, params).expand(reward.shape)
        return next_state, self.observation(next_state, rng, params), reward, terminated

    def compile(self, **options: Any) -> None:
        """Let torch.compile make `step` faster from now on, as `torch.nn.Module.compile` does with `forward`.

        The first steps of each batch shape take seconds, and a C++ compiler is needed on the CPU. Results equal those
        of the plain step but for rounding. Where the family draws random numbers in its steps, it stays as it is:
        a compiled function takes no torch.Generator.

        Args:
            options: for torch.compile; not a mode that captures CUDA graphs, which `capture_rollouts` does.
        """
        if not self.random_steps:
            compiled = torch.compile(_without_generator(self), **options)
            self.step = lambda state, action, rng, params: compiled(state, action, params)  # type: ignore[method-assign]

    def capture_rollouts(self, policy: ActingPolicy, capture: Capture = cuda_graph) -> None:
        """Let `collect` run this policy's rollouts as CUDA graphs from now on, with the same results.

        The first rollout of each batch shape takes some steps more, in which its step is captured; these are not
        counted. A step that waits for the device, or moves numbers to it, raises RuntimeError then. What a step does
        must not depend on Python variables that change: only the operations on tensors are repeated.

        Args:
            policy: carries no memory from step to step.
            capture: how; tests put in something that needs no GPU.
        """
        self.rollout_graphs = RolloutGraphs(policy, capture)

    def get_default_params(self, **kwargs: Any) -> Task | None:
        """See EnvFamily.get_default_params."""
        return None

    def render_init(self, params: Task | None = None, **kwargs: Any) -> Any:
        """State of the renderer. Default: none needed."""
        return None

    def render_image(
        self, state: State, render_state: Any, params: Task | None = None
    ) -> tuple[Any, NDArray[np.uint8]]:
        """Picture of one unbatched state: (render_state, uint8 image (height, width, 3))."""
        raise NotImplementedError

    def render_close(self, render_state: Any, params: Task | None = None) -> None:
        """Release what `render_init` took. Default: nothing."""

    def bind(self, tasks: Task, num_episodes: int) -> "BoundTaskEnv":
        """Bind to M tasks × E episodes: the BatchedEnv that `collect` steps."""
        return BoundTaskEnv(self, tasks, num_episodes)

    @property
    def draws_pictures(self) -> bool:
        """Whether `render_image` is defined."""
        return type(self).render_image is not TaskEnv.render_image

    def bind_for_pictures(self, tasks: Task, num_episodes: int) -> PicturedEnv:
        """See EnvFamily.bind_for_pictures."""
        if not self.draws_pictures:
            raise ValueError("it has no render_image()")
        return BoundTaskEnv(self, tasks, num_episodes)


class BoundTaskEnv:
    """A TaskEnv bound to M tasks × E episodes; implements the BatchedEnv protocol of `metarl.envs.rollout`.

    Attributes:
        horizon: H of the TaskEnv.
        batch_shape: (M, E).
        tasks: the M tasks.
        state: of the episodes, leaves (M, E, …); None before `reset`.
    """

    def __init__(self, env: TaskEnv, tasks: Task, num_episodes: int) -> None:
        self.env = env
        self.tasks = tasks
        self.horizon = env.horizon
        self.batch_shape = (num_tasks_of(tasks), num_episodes)
        self._params = {
            name: value.unsqueeze(1).expand(value.shape[0], num_episodes, *value.shape[1:])
            for name, value in tasks.items()
        }
        self.state: State = None
        self._rng: torch.Generator | None = None
        self._render_states: dict[tuple[int, int], Any] = {}

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode everywhere; `generator` also drives the steps that follow. Returns obs (M, E, O)."""
        self._rng = generator
        self.state = self.env.initial(generator, self._params)
        return self.env.observation(self.state, generator, self._params)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step everywhere: action (M, E, A) -> obs (M, E, O), reward (M, E), terminated bool (M, E)."""
        assert self._rng is not None, "reset() comes before step()"
        self.state, obs, reward, terminated = self.env.step(self.state, action, self._rng, self._params)
        return obs, reward, terminated

    @property
    def rollout_graphs(self) -> RolloutGraphs | None:
        """See CapturableEnv."""
        return self.env.rollout_graphs

    def rebound(self, tasks: Task) -> "BoundTaskEnv":
        """See CapturableEnv.rebound."""
        return BoundTaskEnv(self.env, tasks, self.batch_shape[1])

    def success(self) -> None:
        """See BatchedEnv.success."""
        return None

    def picture(self, task: int, episode: int) -> NDArray[np.uint8]:
        """See PicturedEnv.picture."""
        which = (task, episode)
        params = {name: value[which] for name, value in self._params.items()}
        state = self.state
        one = {name: leaf[which] for name, leaf in state.items()} if isinstance(state, dict) else state[which]
        if which not in self._render_states:
            self._render_states[which] = self.env.render_init(params)
        self._render_states[which], image = self.env.render_image(one, self._render_states[which], params)
        return image

    def close_pictures(self) -> None:
        """See PicturedEnv.close_pictures."""
        for render_state in self._render_states.values():
            self.env.render_close(render_state)
        self._render_states.clear()


def _without_generator(env: TaskEnv) -> Callable[[State, Tensor, Task], tuple[State, Tensor, Tensor, Tensor]]:
    """The plain step of an environment that draws no random numbers in it."""
    step = type(env).step
    no_generator: Any = object()  # None would make a family that does draw use torch's global stream

    def plain(state: State, action: Tensor, params: Task) -> tuple[State, Tensor, Tensor, Tensor]:
        return step(env, state, action, no_generator, params)

    return plain
