"""Many live Gymnasium environments, stepped together in worker processes by Gymnasium's own AsyncVectorEnv.

Each worker holds one EnvBlock: one Gymnasium environment whose observation is that of its n environments side by
side, so that shared memory carries everything and a step of all of them costs one message to each worker.

An exception comes back from a worker as text, but a worker that dies sends nothing. So that the environment at fault
can be named even then, each block writes the index of the environment at work into a file shared with the parent
process, the progress file.
"""

import contextlib
import math
import multiprocessing
import signal
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from metarl.envs.external.worker_process import env_worker, kill, starting_workers
from metarl.envs.external.worker_start import WAYS_OUT, BlockMaker, CannotStartError, block_makers, why_ended
from metarl.envs.spaces.action_map import PolicySpace
from metarl.envs.spaces.observation import FlatImage
from metarl.envs.spaces.observation_reader import UnfitEnvError
from metarl.envs.task_space import task_text

TaskValues = Mapping[str, NDArray[np.float32]]
"""One task as numpy arrays without a leading dimension."""

Assignment = tuple[TaskValues, int]
"""The task of one environment and the seed of its next episode."""

Vector = AsyncVectorEnv | SyncVectorEnv

NO_SUCCESS = -1
"""In place of 0 or 1 where the environment says nothing about success."""


class EnvironmentFailedError(RuntimeError):
    """An environment raised an exception, or its worker process died; names environment and task."""


def reason_of(error: BaseException) -> str:
    """What an environment's exception says, and where it was raised."""
    if isinstance(error, UnfitEnvError):
        return error.reason
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def one_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split())


def success_of(info: Mapping[str, Any]) -> bool | None:
    """Whether a step succeeded, by "success" or "is_success" of its info; None where it says nothing."""
    success = info.get("success", info.get("is_success"))
    return None if success is None else bool(success)


LARGEST_REWARD = float(np.finfo(np.float32).max)


def require_finite_reward(reward: float, when: str = "") -> None:
    """Refuse a reward that is not finite, or would not be as a float32; `when` follows in the message, " at step 3".

    Raises:
        UnfitEnvError: names the reward.
    """
    if not abs(reward) <= LARGEST_REWARD:  # also where it is not a number
        raise UnfitEnvError(f"its reward{when} is not a finite float32 number: {reward}")


class SingleEnv(gymnasium.Env[Any, Any]):
    """What a block holds: one environment with float32 vector observations that can be given a task."""

    observation_space: Box
    action_space: PolicySpace

    def set_task(self, task: TaskValues) -> None:
        """Take a task for all episodes from the next one on."""
        raise NotImplementedError

    def not_finite(self, vector: NDArray[np.float32]) -> str:
        """The first number of an observation (O,) that is not finite, in words; "" where all are."""
        raise NotImplementedError


class EnvBlock(gymnasium.Env[Any, Any]):
    """n environments as one; they are made when a task is first assigned to them.

    Observed of each environment are "obs", "reward", "terminated" and "success" (see `_observed_space`). One whose
    episode is over is not stepped on: it returns its last observation, reward 0 and terminated. An exception ends the
    block's step and comes back as info["error"].

    Args:
        make: makes one environment.
        size: n.
        progress_file: int64 for each block, the index of the environment that it works at.
        block: which block this is.

    Attributes:
        assignments: task and seed of the next episodes, of up to n environments.
    """

    def __init__(self, make: Callable[[], SingleEnv], size: int, progress_file: str, block: int) -> None:
        self.assignments: Sequence[Assignment] = ()
        self._make = make
        self._envs: list[SingleEnv] = [make()]
        self._progress = np.memmap(progress_file, np.int64, "r+")
        self._block = block
        self._time = 0
        self._pixels = isinstance(self._envs[0].observation_space, FlatImage)

        self.observation_space = _observed_space(self._envs[0].observation_space, size)
        self.action_space = _block_action_space(self._envs[0].action_space, size)
        self._observed = {
            name: np.zeros(space.shape or (), space.dtype) for name, space in self.observation_space.spaces.items()
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode of each assigned task."""
        while len(self._envs) < len(self.assignments):
            self._envs.append(self._make())

        # Environments without an assignment stay terminated, so that they are not stepped.
        self._observed["terminated"][:] = 1
        self._observed["success"][:] = NO_SUCCESS
        self._observed["reward"][:] = 0
        self._time = 0
        return self._observed, self._for_each_env(self._reset_one)

    def step(self, action: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Step every environment whose episode goes on."""
        self._observed["reward"][:] = 0
        self._time += 1
        info = self._for_each_env(lambda index: self._step_one(index, action[index]))
        return self._observed, 0.0, False, False, info

    def render_one(self, block: int, index: int) -> NDArray[np.uint8] | str | None:
        """What an environment of a block renders, or the error as text; None from the other blocks."""
        if block != self._block:
            return None

        self._progress[block] = index
        try:
            return np.asarray(self._envs[index].render(), np.uint8)
        except Exception as error:
            return f"rendering: {type(error).__name__}: {error}"

    def close(self) -> None:
        """Close all of them."""
        for env in self._envs:
            env.close()

    def _reset_one(self, index: int) -> None:
        task, seed = self.assignments[index]
        env = self._envs[index]
        env.set_task(task)
        self._observed["obs"][index], _ = env.reset(seed=seed)
        self._observed["terminated"][index] = 0

    def _step_one(self, index: int, action: Any) -> None:
        if self._observed["terminated"][index]:
            return

        obs, reward, terminated, truncated, info = self._envs[index].step(action)
        require_finite_reward(float(reward), f" at step {self._time}")
        self._observed["obs"][index] = obs
        self._observed["reward"][index] = reward

        # An environment that truncates itself before the horizon cannot go on either.
        self._observed["terminated"][index] = terminated or truncated

        # Success at any time of the episode counts.
        success = success_of(info)
        if success is not None:
            self._observed["success"][index] = max(self._observed["success"][index], int(success))

    def _for_each_env(self, work: Callable[[int], None]) -> dict[str, Any]:
        """Do the work for every assigned environment; returns info with the "error" of the first that fails."""
        for index in range(len(self.assignments)):
            self._progress[self._block] = index
            try:
                work(index)
            except (Exception, SystemExit) as error:  # an environment that calls sys.exit() has failed
                return {"error": reason_of(error)}
        return self._not_finite()

    def _not_finite(self) -> dict[str, Any]:
        """Info with the "error" of the first environment whose numbers are not finite; no policy acts on these."""
        observed = self._observed["obs"]
        # Pixels are whole numbers, as was checked, and many.
        if self._pixels or np.isfinite(observed).all():
            return {}

        when = f"at step {self._time}" if self._time else "at the reset"
        for index in range(len(self.assignments)):
            self._progress[self._block] = index
            broken = self._envs[index].not_finite(observed[index])
            if broken:
                return {"error": f"its observation {when} is not finite in float32: {broken}"}
        return {}


def _observed_space(obs_space: Box, size: int) -> Dict:
    """What a block observes of its n environments, each entry (n, …)."""
    return Dict(
        {
            "obs": Box(-np.inf, np.inf, (size, *obs_space.shape), np.float32),
            "reward": Box(-np.inf, np.inf, (size,), np.float32),
            "terminated": Box(0, 1, (size,), np.int8),
            "success": Box(NO_SUCCESS, 1, (size,), np.int8),
        }
    )


def _block_action_space(action_space: PolicySpace, size: int) -> Space[Any]:
    """Actions of n environments, (n, A), or (n,) integers."""
    if isinstance(action_space, Discrete):
        return Box(0, int(action_space.n) - 1, (size,), np.int64)
    if isinstance(action_space, MultiDiscrete):
        return Box(0, int(action_space.nvec.max()) - 1, (size, *action_space.shape), np.int64)
    return Box(-np.inf, np.inf, (size, *action_space.shape), np.float32)


class WorkerPool:
    """Live environments in worker processes, or in this one. It grows on demand and is closed at exit.

    Args:
        make: makes one environment; sent to the workers by cloudpickle.
        label: name of the environment in error messages.
        num_workers: processes; 0 = all environments in this process.
        timeout: seconds that one step or reset of a worker's environments may take; 0 = unlimited.

    Attributes:
        timeout: as above.
    """

    def __init__(self, make: Callable[[], SingleEnv], label: str, num_workers: int, timeout: float = 0.0) -> None:
        self.timeout = timeout
        self._make = make
        self._label = label
        self._num_workers = num_workers
        self._vector: Vector | None = None
        self._block_size = 0
        self._assignments: Sequence[Assignment] = ()
        self._progress: NDArray[np.int64] | None = None
        self._shut_down: Callable[[], object] = lambda: None

    def reset(self, assignments: Sequence[Assignment]) -> dict[str, NDArray[Any]]:
        """Start an episode in each of N environments.

        Args:
            assignments: task and seed of each, N.

        Returns:
            What `EnvBlock` observes, each entry (N, …).

        Raises:
            EnvironmentFailedError: an environment raised an exception, or its worker died.
        """
        vector = self._vector_for(len(assignments))
        self._assignments = assignments

        size = self._block_size
        blocks = [assignments[start : start + size] for start in range(0, size * vector.num_envs, size)]
        with self._report_dead_workers():
            vector.set_attr("assignments", blocks)
            if isinstance(vector, AsyncVectorEnv):
                vector.reset_async()
                observed, infos = vector.reset_wait(self._limit)
            else:
                with time_limit(self.timeout):
                    observed, infos = vector.reset()
        return self._unpack(observed, infos)

    def step(self, action: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Step all N environments with actions (N, …); returns and raises as `reset`."""
        assert self._vector is not None, "reset() comes before step()"

        # The last blocks may have more places than there are environments.
        places = self._vector.num_envs * self._block_size
        padded = np.zeros((places, *action.shape[1:]), action.dtype)
        padded[: len(action)] = action

        blocks = padded.reshape(self._vector.num_envs, self._block_size, *action.shape[1:])
        with self._report_dead_workers():
            if isinstance(self._vector, AsyncVectorEnv):
                self._vector.step_async(blocks)
                observed, *_, infos = self._vector.step_wait(self._limit)
            else:
                with time_limit(self.timeout):
                    observed, *_, infos = self._vector.step(blocks)
        return self._unpack(observed, infos)

    def render(self, index: int) -> NDArray[np.uint8]:
        """What one of the N environments renders, (height, width, 3).

        Raises:
            EnvironmentFailedError: it cannot be rendered, or its worker died.
        """
        assert self._vector is not None, "reset() comes before render()"
        block, place = divmod(index, self._block_size)
        with self._report_dead_workers():
            image = self._vector.call("render_one", block, place)[block]
        if not isinstance(image, np.ndarray):
            raise self._failure(block, str(image))
        return image

    def progress(self) -> bytes:
        """Which environment each worker works at, for `env_at_work`."""
        progress = self._progress
        return b"" if progress is None else progress.tobytes()

    @property
    def _limit(self) -> float | None:
        """Seconds to wait for workers, as Gymnasium takes them."""
        return self.timeout or None

    def close(self) -> None:
        """End the workers; the pool may be used again."""
        self._shut_down()
        self._vector = None

    def _vector_for(self, count: int) -> Vector:
        """The vector environment, with room for so many; a larger one is made where there is none."""
        num_blocks = max(self._num_workers, 1)
        size = math.ceil(count / num_blocks)
        if self._vector is not None and size <= self._block_size:
            return self._vector

        self.close()
        progress_file = _new_progress_file(num_blocks)
        self._progress = np.memmap(progress_file, np.int64, "r")

        # The workers get only what makes environments, not this pool.
        make = self._make

        def maker(block: int) -> Callable[[], EnvBlock]:
            return lambda: EnvBlock(make, size, progress_file, block)

        makers = [maker(block) for block in range(num_blocks)]
        try:
            vector = _start(makers, in_workers=self._num_workers > 0, fault_file=f"{progress_file}.fault")
        except BaseException as error:
            Path(progress_file).unlink(missing_ok=True)
            if not isinstance(error, CannotStartError):
                raise
            raise EnvironmentFailedError(
                f"worker processes for {self._label} cannot start: {error}. Ways out: {WAYS_OUT}"
            ) from None

        self._vector = vector
        self._block_size = size
        self._shut_down = weakref.finalize(self, _shut_down, vector, progress_file)
        return vector

    def _unpack(self, observed: dict[str, NDArray[Any]], infos: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Blocks (blocks, n, …) as environments (N, …), unless one of them failed."""
        for block, error in enumerate(infos.get("error", ())):
            if error:
                raise self._failure(block, str(error))

        count = len(self._assignments)
        return {name: leaf.reshape(-1, *leaf.shape[2:])[:count] for name, leaf in observed.items()}

    @contextlib.contextmanager
    def _report_dead_workers(self) -> Iterator[None]:
        """Turn the broken pipe of a dead worker, and a worker that does not answer, into an EnvironmentFailedError."""
        try:
            yield
        except multiprocessing.TimeoutError as error:
            assert isinstance(self._vector, AsyncVectorEnv)
            pipes = enumerate(self._vector.parent_pipes)
            silent = next((block for block, pipe in pipes if not pipe.poll(0)), 0)
            raise self._failure(silent, _too_late(self.timeout)) from error
        except (EOFError, ConnectionError) as error:
            assert isinstance(self._vector, AsyncVectorEnv)
            for process in self._vector.processes:
                process.join(timeout=0.5)

            codes = [process.exitcode for process in self._vector.processes]
            dead = next((block for block, code in enumerate(codes) if code is not None), 0)
            raise self._failure(dead, f"its worker process died, exit code {codes[dead]}") from error

    def _failure(self, block: int, reason: str) -> EnvironmentFailedError:
        """The error that names the task of the environment that the block worked at; closes the pool."""
        assert self._progress is not None
        index = min(block * self._block_size + int(self._progress[block]), len(self._assignments) - 1)
        values, _ = self._assignments[index]
        self.close()
        return EnvironmentFailedError(f"environment {self._label} failed on the task {task_text(values)}: {reason}")


def _too_late(seconds: float) -> str:
    return f"it did not answer within {seconds:g} s, the limit of --env-timeout"


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in the block where it takes longer; only in the main thread, which takes signals.

    What hangs outside Python is not reached in this way: then take worker processes.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(_too_late(seconds))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _new_progress_file(num_blocks: int) -> str:
    """Make a progress file, of zeros; returns its path."""
    with tempfile.NamedTemporaryFile(prefix="metarl-pool-", delete=False) as file:
        file.write(np.zeros(num_blocks, np.int64).tobytes())
    return file.name


def _start(makers: Sequence[Callable[[], EnvBlock]], in_workers: bool, fault_file: str) -> Vector:
    """The blocks as one vector environment, in this process or in workers.

    Raises:
        CannotStartError: workers cannot start.
    """
    if in_workers:
        return _Workers(block_makers(makers, fault_file), fault_file)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)


class _Workers(AsyncVectorEnv):
    """Worker processes, of which none is left behind where one of them cannot start.

    Args:
        makers: makes what each of them holds.
        fault_file: where a worker writes why it cannot start.

    Raises:
        CannotStartError: one cannot start.
    """

    def __init__(self, makers: Sequence[BlockMaker], fault_file: str) -> None:
        self.parent_pipes = []
        self.processes = []
        try:
            # A forked child of a process with running torch threads can hang, so workers are spawned.
            with starting_workers():
                super().__init__(makers, context="spawn", autoreset_mode=AutoresetMode.DISABLED, worker=env_worker)
        except (EOFError, ConnectionError):
            for process in self.processes:
                process.join(timeout=0.5)
            cause = why_ended(fault_file, [process.exitcode for process in self.processes])
            self._give_up(fault_file)
            raise CannotStartError(cause) from None
        except BaseException:
            self._give_up(fault_file)
            raise

    def _give_up(self, fault_file: str) -> None:
        """End the workers that have been started."""
        self.processes = [process for process in self.processes if process.pid is not None]
        _end_processes(self)
        Path(fault_file).unlink(missing_ok=True)


def _shut_down(vector: Vector, progress_file: str) -> None:
    """End the workers and remove their progress file."""
    if isinstance(vector, AsyncVectorEnv):
        _end_processes(vector)
    else:
        vector.close()

    Path(progress_file).unlink(missing_ok=True)


def _end_processes(vector: AsyncVectorEnv) -> None:
    """End the workers without waiting for answers, which dead ones never give, as the vector's own close() does."""
    kill(vector.processes)

    for pipe in vector.parent_pipes:
        if pipe is not None:
            pipe.close()
    vector.closed = True
