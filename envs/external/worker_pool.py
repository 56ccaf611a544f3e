"""Many live Gymnasium environments, stepped together in worker processes by Gymnasium's own AsyncVectorEnv.

Each worker holds one EnvBlock: one Gymnasium environment whose observation is that of its n environments side by
side, so that shared memory carries everything and a step of all of them costs one message to each worker.
"""

import contextlib
import math
import multiprocessing
import signal
import tempfile
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

TaskValues = Mapping[str, NDArray[np.float32]]
"""One task as numpy arrays without a leading dimension."""

Assignment = tuple[TaskValues, int]
"""The task of one environment and the seed of its next episode."""

Vector = AsyncVectorEnv | SyncVectorEnv

NO_SUCCESS = -1
"""In place of 0 or 1 where the environment says nothing about success."""


class EnvironmentFailedError(RuntimeError):
    """An environment raised an exception, or its worker process died; names environment and task."""


def reason_of(error: Exception) -> str:
    """What an environment's exception says, and where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def success_of(info: Mapping[str, Any]) -> bool | None:
    """Whether a step succeeded, by "success" or "is_success" of its info; None where it says nothing."""
    success = info.get("success", info.get("is_success"))
    return None if success is None else bool(success)


class SingleEnv(gymnasium.Env[Any, Any]):
    """What a block holds: one environment with float32 vector observations that can be given a task."""

    observation_space: Box
    action_space: Box | Discrete

    def set_task(self, task: TaskValues) -> None:
        """Take a task for all episodes from the next one on."""
        raise NotImplementedError


class EnvBlock(gymnasium.Env[Any, Any]):
    """n environments as one; they are made when a task is first assigned to them.

    An environment whose episode is over is not stepped on: it returns its last observation, reward 0 and terminated.
    An exception ends the block's step and comes back as info["error"].

    Args:
        make: makes one environment.
        size: n.
        diary: file whose element `row`, int64, always holds the index of the environment at work.
        row: this block's.
    """

    def __init__(self, make: Callable[[], SingleEnv], size: int, diary: str, row: int) -> None:
        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        self._make = make
        self._envs: list[SingleEnv] = [make()]
        self._diary, self._row = np.memmap(diary, np.int64, "r+"), row
        one = self._envs[0]
        vector = one.observation_space
        spaces: dict[str, gymnasium.Space[Any]] = {
            "obs": Box(-np.inf, np.inf, (size, *vector.shape), np.float32),
            "reward": Box(-np.inf, np.inf, (size,), np.float32),
            "terminated": Box(0, 1, (size,), np.int8),
            "success": Box(NO_SUCCESS, 1, (size,), np.int8),
        }
        self.observation_space = Dict(spaces)
        if isinstance(one.action_space, Discrete):
            self.action_space: gymnasium.Space[Any] = Box(0, int(one.action_space.n) - 1, (size,), np.int64)
        else:
            self.action_space = Box(-np.inf, np.inf, (size, *one.action_space.shape), np.float32)
        self.assignments: Sequence[Assignment] = ()
        self._last = {name: np.zeros(space.shape or (), space.dtype) for name, space in spaces.items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode of each assigned task."""
        while len(self._envs) < len(self.assignments):
            self._envs.append(self._make())
        self._last["terminated"][:] = 1
        self._last["success"][:] = NO_SUCCESS
        self._last["reward"][:] = 0

        def start(index: int) -> None:
            task, episode_seed = self.assignments[index]
            self._envs[index].set_task(task)
            self._last["obs"][index], _ = self._envs[index].reset(seed=episode_seed)
            self._last["terminated"][index] = 0

        return self._last, self._each(start)

    def step(self, action: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Step every environment whose episode goes on."""
        self._last["reward"][:] = 0

        def advance(index: int) -> None:
            if self._last["terminated"][index]:
                return
            obs, reward, terminated, truncated, info = self._envs[index].step(action[index])
            self._last["obs"][index], self._last["reward"][index] = obs, reward
            # One that truncates itself before the horizon has nothing more to give either.
            self._last["terminated"][index] = terminated or truncated
            success = success_of(info)
            if success is not None:
                self._last["success"][index] = max(self._last["success"][index], int(success))

        return self._last, 0.0, False, False, self._each(advance)

    def picture(self, row: int, index: int) -> NDArray[np.uint8] | str | None:
        """What an environment of block `row` renders, or the error; None from the other blocks."""
        if row != self._row:
            return None
        self._diary[row] = index
        try:
            return np.asarray(self._envs[index].render(), np.uint8)
        except Exception as error:
            return f"rendering: {type(error).__name__}: {error}"

    def close(self) -> None:
        """Close all of them."""
        for env in self._envs:
            env.close()

    def _each(self, work: Callable[[int], None]) -> dict[str, Any]:
        """Do it for every assigned environment; info with the "error" of the first that fails."""
        for index in range(len(self.assignments)):
            self._diary[self._row] = index
            try:
                work(index)
            except Exception as error:
                return {"error": reason_of(error)}
        return {}


class WorkerPool:
    """Live environments in worker processes, or in this one. It grows on demand and is closed at exit.

    Args:
        make: makes one environment; sent to the workers by cloudpickle.
        label: what it is, for error messages.
        num_workers: processes; 0: all in this process.
    """

    def __init__(self, make: Callable[[], SingleEnv], label: str, num_workers: int) -> None:
        self._make, self._label, self._num_workers = make, label, num_workers
        self._vector: Vector | None = None
        self._block_size = 0
        self._assignments: Sequence[Assignment] = ()
        self._diary: NDArray[np.int64] | None = None
        self._close: Callable[[], object] = lambda: None

    def reset(self, assignments: Sequence[Assignment]) -> dict[str, NDArray[Any]]:
        """Start an episode in each of N environments, with a task and a seed each; what `EnvBlock` observes, (N, …)."""
        vector = self._grown(len(assignments))
        self._assignments = assignments
        size = self._block_size
        blocks = [assignments[start : start + size] for start in range(0, size * vector.num_envs, size)]
        with self._deaths_reported():
            vector.set_attr("assignments", blocks)
            observed, infos = vector.reset()
        return self._taken(observed, infos)

    def step(self, action: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Step all N environments: action (N, …)."""
        assert self._vector is not None, "reset() comes before step()"
        shape = (self._vector.num_envs, self._block_size, *action.shape[1:])
        padded = np.zeros((shape[0] * shape[1], *action.shape[1:]), action.dtype)
        padded[: len(action)] = action
        with self._deaths_reported():
            observed, *_, infos = self._vector.step(padded.reshape(shape))
        return self._taken(observed, infos)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """What one of the N environments renders, (height, width, 3)."""
        assert self._vector is not None, "reset() comes before picture()"
        row, place = divmod(index, self._block_size)
        with self._deaths_reported():
            image = self._vector.call("picture", row, place)[row]
        if not isinstance(image, np.ndarray):
            raise self._failure(row, str(image))
        return image

    def close(self) -> None:
        """End the workers; the pool may be used again."""
        self._close()
        self._vector = None

    def _taken(self, observed: dict[str, NDArray[Any]], infos: dict[str, Any]) -> dict[str, NDArray[Any]]:
        for block, error in enumerate(infos.get("error", ())):
            if error:
                raise self._failure(block, str(error))
        return {name: leaf.reshape(-1, *leaf.shape[2:])[: len(self._assignments)] for name, leaf in observed.items()}

    def _failure(self, block: int, reason: str) -> EnvironmentFailedError:
        """Names the environment that the block worked at; the pool is closed."""
        assert self._diary is not None
        index = min(block * self._block_size + int(self._diary[block]), len(self._assignments) - 1)
        task = {name: np.asarray(value).tolist() for name, value in self._assignments[index][0].items()}
        text = str(task)
        self.close()
        shown = text if len(text) <= 200 else f"{text[:200]}…"
        return EnvironmentFailedError(f"environment {self._label} failed on the task {shown}: {reason}")

    @contextlib.contextmanager
    def _deaths_reported(self) -> Any:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            assert isinstance(self._vector, AsyncVectorEnv)
            for process in self._vector.processes:
                process.join(timeout=0.5)
            codes = [process.exitcode for process in self._vector.processes]
            dead = next((block for block, code in enumerate(codes) if code is not None), 0)
            raise self._failure(dead, f"its worker process died, exit code {codes[dead]}") from error

    def _grown(self, count: int) -> Vector:
        """The vector environment, with room for so many."""
        num_blocks = max(self._num_workers, 1)
        size = math.ceil(count / num_blocks)
        if self._vector is not None and size <= self._block_size:
            return self._vector
        self.close()
        with tempfile.NamedTemporaryFile(prefix="metarl-pool-", delete=False) as file:
            file.write(np.zeros(num_blocks, np.int64).tobytes())
        make, diary = self._make, file.name
        self._diary = np.memmap(diary, np.int64, "r")

        def maker(row: int) -> Callable[[], EnvBlock]:
            return lambda: EnvBlock(make, size, diary, row)

        makers = [maker(row) for row in range(num_blocks)]
        if self._num_workers == 0:
            vector: Vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
        else:
            # A forked child of a process with running torch threads can hang, so workers start afresh.
            vector = AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
        self._vector, self._block_size = vector, size
        self._close = weakref.finalize(self, _close, vector, diary)
        return vector


def _close(vector: Vector, diary: str) -> None:
    """End the workers and remove their diary."""
    if isinstance(vector, AsyncVectorEnv):
        for process in vector.processes:
            process.terminate()
        for process in vector.processes:
            process.join(timeout=1.0)
            if process.is_alive():  # SDL, once it has drawn, takes SIGTERM for a wish
                process.kill()
                process.join()
        for pipe in vector.parent_pipes:
            if pipe is not None:
                pipe.close()
        vector.closed = True  # its own close() would wait for the answers of dead workers
    else:
        vector.close()
    Path(diary).unlink(missing_ok=True)
