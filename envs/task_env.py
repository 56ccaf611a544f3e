"""TaskEnv: one definition of a parameterized environment, in torch, for training, Gymnasium and SB3 alike."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.env_family import EnvFamily, RenderableEnv
from metarl.envs.graphs.capture import Capture, cuda_graph
from metarl.envs.rollout import ActingPolicy
from metarl.envs.rollout_graphs import RolloutGraphs
from metarl.envs.spaces.action_map import TensorActionMap
from metarl.envs.task_space import Task, num_tasks_of, select_tasks

# FuncEnv lets `params` be None; here every method is given a task. The type checker would compare the methods of every
# family with FuncEnv's, so that for it TaskEnv begins the line.
if TYPE_CHECKING:

    class _FuncEnv:
        """FuncEnv, without its signatures."""

else:
    _FuncEnv = FuncEnv

State = Any
"""State of a TaskEnv: a tensor or a dict of named tensors, leaves (*batch, …)."""


class TaskEnv(_FuncEnv, EnvFamily):
    """A Gymnasium FuncEnv whose `params` are the task, written in torch over any leading batch dimensions.

    A subclass sets the spaces and the horizon, and writes the first three of these methods; the others have defaults:

        initial(rng, params)                            -> state
        transition(state, action, rng, params)          -> next state
        reward(state, action, next_state, rng, params)  -> reward (*batch,)
        observation(state, rng, params)                 -> obs (*batch, O)
        terminal(state, rng, params)                    -> terminated, bool (*batch,)

    Every method is rank-polymorphic: states, actions and task parameters arrive as (*batch, …) with the same leading
    dimensions (none in a single Gymnasium environment, (M, E) in training), so a method has no Python branch on data.
    `rng` is a `torch.Generator` on the task's device. A method must not write into its arguments.

    Attributes:
        random_steps: whether anything but `initial` draws random numbers.
        rollout_graphs: what `capture_rollouts` set up.
        steps_per_graph: steps that one CUDA graph of a captured rollout holds at most.
    """

    observation_space: Box
    action_space: Space[Any]
    random_steps: bool = False
    steps_per_graph: int = 256
    rollout_graphs: RolloutGraphs | None = None

    def initial(self, rng: torch.Generator, params: Task) -> State:
        """State at the start of an episode, (*batch, …), where *batch leads the shape of every task parameter."""
        raise NotImplementedError

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task) -> State:
        """Next state.

        Args:
            state: as `initial` made it, leaves (*batch, …).
            action: within `action_space`, (*batch, A); in a Discrete space integers (*batch,).
            rng: generator on the tasks' device.
            params: the task, each parameter (*batch, …).
        """
        raise NotImplementedError

    def reward(self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task) -> Tensor:
        """Reward of a transition, (*batch,).

        Args:
            state: before the action.
            action: as in `transition`.
            next_state: what `transition` made of them.
            rng: as in `transition`.
            params: as in `transition`.
        """
        raise NotImplementedError

    def observation(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """What the agent sees of a state, (*batch, O). Default: the state itself. It must not hold the task."""
        assert isinstance(state, Tensor), "an environment whose state is a dict must define observation()"
        return state

    def terminal(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """Whether a state ends the episode, bool, broadcastable to (*batch,). Default: never."""
        device = next(iter(params.values())).device
        return torch.zeros((), dtype=torch.bool, device=device)

    def step(
        self, state: State, action: Tensor, rng: torch.Generator, params: Task
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of everything; arguments as in `transition`.

        Returns:
            next state, its observation (*batch, O), reward (*batch,), and whether it ends the episode, bool (*batch,).
        """
        next_state = self.transition(state, action, rng, params)
        reward = self.reward(state, action, next_state, rng, params)
        terminated = self.terminal(next_state, rng, params).expand(reward.shape)
        return next_state, self.observation(next_state, rng, params), reward, terminated

    def bind(self, tasks: Task, num_episodes: int) -> "BoundTaskEnv":
        """Bind to M tasks × E episodes: the BatchedEnv that `collect` steps."""
        return BoundTaskEnv(self, tasks, num_episodes)

    def get_default_params(self, **kwargs: Any) -> Task | None:
        """See EnvFamily.get_default_params."""
        return None

    # Rendering

    def render_init(self, params: Task, **kwargs: Any) -> Any:
        """State of the renderer. Default: none needed."""
        return None

    def render_image(self, state: State, render_state: Any, params: Task) -> tuple[Any, NDArray[np.uint8]]:
        """Render one state without batch dimensions: (render_state, uint8 image (height, width, 3))."""
        raise NotImplementedError

    def render_close(self, render_state: Any, params: Task | None = None) -> None:
        """Release what `render_init` took. Default: nothing."""

    @property
    def can_render(self) -> bool:
        """Whether `render_image` is defined."""
        return type(self).render_image is not TaskEnv.render_image

    def bind_for_rendering(self, tasks: Task, num_episodes: int) -> RenderableEnv:
        """See EnvFamily.bind_for_rendering."""
        if not self.can_render:
            raise ValueError("it has no render_image()")
        return BoundTaskEnv(self, tasks, num_episodes)

    # Speed

    def compile(self, **options: Any) -> None:
        """Let torch.compile make `step` faster from now on, as `torch.nn.Module.compile` does with `forward`.

        The first steps of each batch shape take seconds, and a C++ compiler is needed on the CPU. Results equal those
        of the plain step up to rounding. A family that draws random numbers in its steps stays as it is: a compiled
        function takes no torch.Generator.

        Args:
            options: for torch.compile; not a mode that captures CUDA graphs, which `capture_rollouts` does.
        """
        if self.random_steps:
            return

        compiled = torch.compile(_without_generator(self), **options)
        self.step = lambda state, action, rng, params: compiled(state, action, params)  # type: ignore[method-assign]

    def capture_rollouts(
        self,
        policy: ActingPolicy,
        capture: Capture = cuda_graph,
        say: Callable[[str], None] | None = None,
        fuse: bool = False,
    ) -> None:
        """Let `collect` run this policy's rollouts as CUDA graphs from now on, with the same results.

        The first rollout of each batch shape takes its steps twice more, in which they are captured; these are not
        counted. A step that waits for the device, or moves numbers to it, cannot be captured. What a step does must not
        depend on Python variables that change: only the operations on tensors are repeated.

        Args:
            policy: whose rollouts are captured; what it remembers may be tensors alone.
            capture: how steps are captured; tests pass one that needs no GPU.
            say: is told in a line what cannot be captured, which then runs one operation at a time; without it that is
                a RuntimeError.
            fuse: whether the operations of a step become a few kernels, which takes seconds for each shape of a batch;
                the numbers are the same to rounding.
        """
        self.rollout_graphs = RolloutGraphs(policy, capture, say, fuse)


class BoundTaskEnv:
    """A TaskEnv bound to M tasks × E episodes; implements the BatchedEnv protocol of `metarl.envs.rollout`.

    Attributes:
        horizon: H of the TaskEnv.
        batch_shape: (M, E).
        label: what error messages call the environment.
        tasks: the M tasks.
        action_space: what policies act in.
        state: of the episodes, leaves (M, E, …); None before `reset`.
        generator: drives the steps; that of the last `reset`.

    Args:
        env: what is bound.
        tasks: M tasks.
        num_episodes: E.
        to_native: from the policy's actions to those of `env`, on the device of the tasks; None: made here, if needed.
    """

    def __init__(self, env: TaskEnv, tasks: Task, num_episodes: int, to_native: TensorActionMap | None = None) -> None:
        self.env = env
        self.label = type(env).__name__
        self.tasks = tasks
        self.horizon = env.horizon
        self.batch_shape = (num_tasks_of(tasks), num_episodes)
        self.state: State = None
        self.generator: torch.Generator | None = None
        self._renderers: dict[tuple[int, int], Renderer] = {}

        # Its numbers lie on the device before a step is captured there.
        action_map = env.action_map
        self.action_space = action_map.policy
        self._to_native = to_native
        if to_native is None and not action_map.is_identity:
            self._to_native = TensorActionMap(action_map).to(next(iter(tasks.values())).device)

        # Each of the E episodes sees its task: (M, …) -> (M, E, …).
        self._params: Task = {}
        for name, value in tasks.items():
            self._params[name] = value.unsqueeze(1).expand(value.shape[0], num_episodes, *value.shape[1:])

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode everywhere; `generator` also drives the steps that follow. Returns obs (M, E, O)."""
        self.generator = generator
        self.state = self.env.initial(generator, self._params)
        return self.env.observation(self.state, generator, self._params)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step everywhere: a policy's action (M, E, A) -> obs (M, E, O), reward (M, E), terminated bool (M, E)."""
        assert self.generator is not None, "reset() comes before step()"
        if self._to_native is not None:
            action = self._to_native(action)
        self.state, obs, reward, terminated = self.env.step(self.state, action, self.generator, self._params)
        return obs, reward, terminated

    def success(self) -> None:
        """See BatchedEnv.success."""
        return None

    @property
    def rollout_graphs(self) -> RolloutGraphs | None:
        """See CapturableEnv."""
        return self.env.rollout_graphs

    @property
    def steps_per_graph(self) -> int:
        """See CapturableEnv."""
        return self.env.steps_per_graph

    def with_tasks(self, tasks: Task) -> "BoundTaskEnv":
        """See CapturableEnv.with_tasks."""
        return BoundTaskEnv(self.env, tasks, self.batch_shape[1], self._to_native)

    def render(self, task: int, episode: int) -> NDArray[np.uint8]:
        """See RenderableEnv.render."""
        which = (task, episode)
        if which not in self._renderers:
            self._renderers[which] = Renderer(self.env)
        return self._renderers[which].render(select_state(self.state, which), select_tasks(self._params, which))

    def close_renderers(self) -> None:
        """See RenderableEnv.close_renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


class Renderer:
    """Renders one environment of a TaskEnv; the family's renderer is started at the first frame.

    Args:
        env: defines `render_image`.
    """

    def __init__(self, env: TaskEnv) -> None:
        self._env = env
        self._started = False
        self._render_state: Any = None

    def render(self, state: State, params: Task) -> NDArray[np.uint8]:
        """Image (height, width, 3) of a state without batch dimensions."""
        if not self._started:
            self._render_state = self._env.render_init(params)
            self._started = True

        self._render_state, image = self._env.render_image(state, self._render_state, params)
        return image

    def close(self) -> None:
        """Release the family's renderer; may be called again."""
        if self._started:
            self._env.render_close(self._render_state)
            self._started = False


def select_state(state: State, index: Any) -> State:
    """Part of a batched state, by an index of its leading dimensions."""
    if isinstance(state, dict):
        return {name: leaf[index] for name, leaf in state.items()}
    return state[index]


def _without_generator(env: TaskEnv) -> Callable[[State, Tensor, Task], tuple[State, Tensor, Tensor, Tensor]]:
    """The plain step of an environment that draws no random numbers in it."""
    step = type(env).step
    no_generator: Any = object()  # None would make a family that does draw use torch's global stream

    def plain(state: State, action: Tensor, params: Task) -> tuple[State, Tensor, Tensor, Tensor]:
        return step(env, state, action, no_generator, params)

    return plain
