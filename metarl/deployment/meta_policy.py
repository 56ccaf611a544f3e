"""The model generator: a meta-trained run becomes a policy for one task, stated or live."""

import contextlib
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.spaces import Box, Space

from metarl.deployment.live_record import LiveRecord
from metarl.deployment.policy import SpecialisedPolicy
from metarl.deployment.specialise import (
    AdaptationBudget,
    EpisodeSource,
    Keep,
    Pause,
    ReportLine,
    SavePolicy,
    live_episodes,
    pause_for,
    simulated_episodes,
    specialise,
)
from metarl.envs.adapters.arguments import own_spaces
from metarl.envs.external.env_spec import ExternalEnv
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily, task_values
from metarl.envs.external.live_env import LiveEnv, LiveGymEnv
from metarl.envs.registry import env_label
from metarl.envs.rollout import ObservingPolicy
from metarl.envs.spaces.precision import own_torch_settings
from metarl.envs.task_space import Task, tasks_to_json
from metarl.errors import UserError, require_seconds
from metarl.evaluation.adaptation import rollout_generator
from metarl.evaluation.memory import episode_bytes, require_memory
from metarl.run.build import load_learner
from metarl.run.checkpoint import BEST, Checkpoint
from metarl.run.device import resolve_device
from metarl.run.files import read_file
from metarl.run.run_directory import RunDirectory

MEASURED_TRIALS = 20
"""Episodes that measure a policy which is adapted in a single trial, at least."""

_PACKAGES = ("metarl", "torch", "gymnasium", "numpy", "onnx", "onnxruntime", "onnxscript")


class MetaPolicy:
    """A meta-trained run, ready to be adapted; adapting never changes it.

    Args:
        run: the run.
        checkpoint: "best" on the validation split, "last", or an iteration.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Attributes:
        run: as above.

    Raises:
        UserError, ValueError: no such checkpoint, or corrupt; the environment cannot be built; no such device.
    """

    @own_torch_settings()
    def __init__(self, run: RunDirectory, checkpoint: str = BEST, device: str = "auto") -> None:
        self.run = run
        self._device = resolve_device(device)
        self._distribution, self._learner, loaded = load_learner(run, checkpoint, device)
        self._parent = _parent(run, checkpoint, loaded)

    @own_torch_settings()
    def adapt(
        self,
        env: LiveGymEnv,
        episodes: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        measure_episodes: int | None = 0,
        label: str = "",
        report: ReportLine = lambda line: None,
        *,
        keep: Keep = "auto",
        noise_scale: float = 1.0,
        action_limit: float = 1.0,
        pause: float | str | Pause = 0.0,
        record: str | Path | None = None,
        resume: bool = False,
        timeout: float = 0.0,
    ) -> SpecialisedPolicy:
        """Adapt to a live environment from its episodes alone; it stays open.

        Args:
            env: a gymnasium.Env with the observations and actions that the run was trained on.
            episodes: E, episodes of each adaptation step, one after another; None: as many as trained with.
            steps: K, adaptation steps; None: as many as trained for.
            seed: seed of the rollouts.
            measure_episodes: episodes that only measure the result, with exploration noise and without each; None: E.
            label: what the environment is called; by default its id.
            report: takes a line after each batch.
            keep: "auto", the policy after the last step, or an earlier one that earned more by two standard errors;
                "best", the one with the highest measured mean return; "last", the one after the last step.
            noise_scale: factor on the exploration noise of continuous actions.
            action_limit: share of the range of actions, around its middle, that the policy may use now and later.
            pause: seconds between two episodes, "enter" for the Enter key, or a function that waits.
            record: a directory that takes each episode and policy as it comes; None: nothing is saved on the way.
            resume: whether to go on with what the directory holds; the other arguments must be the same as before.
            timeout: seconds that a step or a reset may take; one that takes longer has failed; 0 = unlimited.

        Raises:
            UserError, ValueError: it is no gymnasium.Env or has other spaces; a number out of range; `record` exists,
                or holds nothing to resume.
            EnvironmentFailedError: it raised an exception; what is saved stands in a note.
        """
        if not isinstance(env, gymnasium.Env):
            raise UserError(f"adapt() needs a gymnasium.Env, got a {type(env).__name__}")
        if noise_scale != 1 and not isinstance(self._distribution.action_space, Box):
            space = self._distribution.action_space
            raise UserError(f"noise_scale needs continuous actions, but the policy's are {space}")
        if isinstance(self._learner.policy, ObservingPolicy):
            raise UserError(
                f"{self.run.config.agent} learns in its memory wherever it is used, so that it needs no "
                "adaptation to a live environment: export it by adapt_to, `metarl adapt --task … --steps 0`, and call "
                "observe after each step"
            )

        label = label or (env.spec.id if env.spec else type(env.unwrapped).__name__)
        live = self._live_env(env, label, action_limit, timeout)
        budget = self._budget(steps, episodes, measure_episodes, seed, keep, noise_scale)
        wait = pause_for(pause, report)

        # Everything that is refused has been refused: the first file is written now.
        asked = {"env": label, "checkpoint_sha256": self._parent["checkpoint_sha256"], **asdict(budget)}
        saved = _open_record(record, resume, {**asked, "action_limit": action_limit})

        source = live_episodes(live, budget.total_episodes, saved, wait)
        spaces = live.observed, env.action_space
        with _noting_what_is_saved(saved):
            return self._specialise(source, budget, spaces, label, None, report, action_limit, saved)

    def _live_env(self, env: LiveGymEnv, label: str, action_limit: float, timeout: float) -> LiveEnv:
        """The environment as the run's policy sees it, once its spaces and the numbers are found to be right."""
        require_seconds("env_timeout", timeout)
        trained = self._distribution
        options: dict[str, Any] = {"action_scale": trained.env.action_scale}
        if isinstance(trained.env, GymnasiumFamily):
            options = trained.env.live_options()

        return LiveEnv(
            env,
            trained.observation_space,
            trained.action_space,
            trained.horizon,
            label,
            action_limit=action_limit,
            timeout=timeout,
            **options,
        )

    @own_torch_settings()
    def adapt_to(
        self,
        task: str | Mapping[str, Any],
        episodes: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        measure_episodes: int | None = None,
        report: ReportLine = lambda line: None,
        *,
        keep: Keep = "auto",
    ) -> SpecialisedPolicy:
        """Adapt to a stated task of the run's family.

        Args:
            task: 'goal=0.3,0.2', a JSON object, or a mapping of parameter names to numbers.
            episodes: as in `adapt`.
            steps: as in `adapt`.
            seed: as in `adapt`.
            measure_episodes: as in `adapt`.
            report: as in `adapt`.
            keep: as in `adapt`.

        Raises:
            UserError, ValueError: malformed, unknown or missing task parameters, or out of range.
            EnvironmentFailedError: the environment raised an exception.
        """
        parsed = self._distribution.parse_task(task)
        chosen = {name: value.to(self._device) for name, value in parsed.items()}

        source = simulated_episodes(self._distribution, chosen)
        budget = self._budget(steps, episodes, measure_episodes, seed, keep)
        spaces = self._native_spaces(chosen)
        return self._specialise(source, budget, spaces, env_label(self.run.config.env), chosen, report)

    def _budget(
        self,
        steps: int | None,
        episodes: int | None,
        measure_episodes: int | None,
        seed: int,
        keep: Keep,
        noise_scale: float = 1.0,
    ) -> AdaptationBudget:
        """The budget asked for, with what the run was trained with where nothing was."""
        learner = self._learner
        agent = self.run.config.agent
        if learner.adapts_in_memory != isinstance(learner.policy, ObservingPolicy):
            raise UserError(
                f"{agent} makes no policy that runs alone: a policy with observe must learn in separate trials "
                "(Sampling.pooled=False), and one that does must have observe"
            )

        # One memory is that of one trial, and each adaptation step one more episode of it.
        if learner.adapts_in_memory and episodes not in (None, 1):
            raise UserError(
                f"{agent} adapts in the memory of one trial: episodes must be 1 a step, got {episodes}; "
                "steps is the number of episodes that are remembered"
            )
        trained = self.run.config.episodes
        episodes = trained if episodes is None else episodes
        measured = episodes
        if learner.adapts_in_memory:
            episodes = 1
            measured = max(trained, MEASURED_TRIALS)

        budget = AdaptationBudget(
            steps=learner.adaptation_steps if steps is None else steps,
            episodes=episodes,
            measure_episodes=measured if measure_episodes is None else measure_episodes,
            seed=seed,
            keep=keep,
            noise_scale=noise_scale,
        )
        self._require_memory(budget)
        return budget

    def _require_memory(self, budget: AdaptationBudget) -> None:
        """Refuse an adaptation whose episodes do not fit, before the first step.

        Raises:
            UserError: names its size and what to lower.
        """
        needed = episode_bytes(self._distribution, budget.total_episodes)
        what = f"{budget.total_episodes} episodes × horizon {self._distribution.horizon}"
        require_memory(needed, what, "--episodes, --measure-episodes or --steps", self._device)

    def _specialise(
        self,
        source: EpisodeSource,
        budget: AdaptationBudget,
        spaces: tuple[Space[Any], Space[Any]],
        label: str,
        task: Task | None,
        report: ReportLine,
        action_limit: float = 1.0,
        record: LiveRecord | None = None,
    ) -> SpecialisedPolicy:
        """Adapt, and put the policy together with its model card.

        Args:
            source: gives episodes of the task.
            budget: how many of them.
            spaces: observations and actions of the environment itself.
            label: what the environment is called.
            task: the stated task, leaves (1, …); None for a live environment.
            report: takes a line after each batch.
            action_limit: share of the range of actions that the policy may use.
            record: takes the policies; None: they are not saved.
        """
        generator = rollout_generator(self._device, budget.seed)
        save_policy: SavePolicy = record.save_policy if record else lambda steps, params: None
        done = specialise(self._learner, source, budget, generator, report, save_policy)

        card = {
            "env": label,
            "task": None if task is None else tasks_to_json(task)[0],
            "horizon": self._distribution.horizon,
            "action_limit": action_limit,
            "units": self._distribution.env.field_units,
            **done.to_json(),
            "parent": self._parent,
            "versions": _versions(),
        }

        network_actions = self._distribution.action_space
        scale = self._distribution.env.action_scale
        return SpecialisedPolicy(self._learner.policy, done.params, *spaces, network_actions, card, scale, done.memory)

    def _native_spaces(self, task: Task) -> tuple[Space[Any], Space[Any]]:
        """Spaces of the environment itself, before flattening and stretching."""
        family = self._distribution.env
        if not isinstance(family, GymnasiumFamily):
            return own_spaces(self._distribution)

        # Only an environment that has been made tells its own spaces.
        env = ExternalEnv(family.spec, task_values(task)[0])
        spaces = env.native_spaces
        env.close()
        return spaces


def load(run: str | Path, checkpoint: str = BEST, device: str = "auto", run_dir: str = "runs") -> MetaPolicy:
    """Load a trained run to adapt it: `metarl.load(RUN).adapt(env)`.

    Args:
        run: its directory, or its name below run_dir.
        checkpoint: "best" on the validation split, "last", or an iteration.
        device: "auto", "cpu", "cuda" or "cuda:N".
        run_dir: where runs are looked for by name.

    Raises:
        UserError, ValueError: there is no such run, checkpoint or device.
    """
    return MetaPolicy(RunDirectory.open(str(run), run_dir), checkpoint, device)


def _open_record(path: str | Path | None, resume: bool, asked: dict[str, Any]) -> LiveRecord | None:
    """The directory that an adaptation is saved in; None where it is not saved.

    Raises:
        UserError: it exists and is not to be resumed, or there is nothing to resume.
    """
    if path is None:
        if resume:
            raise UserError("resume needs record, the directory of the adaptation that was interrupted")
        return None
    return LiveRecord.resume(Path(path), asked) if resume else LiveRecord.begin(Path(path), asked)


@contextlib.contextmanager
def _noting_what_is_saved(record: LiveRecord | None) -> Iterator[None]:
    """Add to an exception what is saved; a record without an episode is removed, since nothing is lost with it."""
    try:
        yield
    except BaseException as error:
        if record and record.num_episodes:
            error.add_note(f"{record.summary()}; go on with adapt(…, record={str(record.path)!r}, resume=True)")
        elif record:
            record.discard()
        raise


def _parent(run: RunDirectory, checkpoint: str, loaded: Checkpoint) -> dict[str, Any]:
    """Where an adapted policy comes from."""
    iteration = loaded.progress.iteration
    # "best" is a file of its own, not that of the iteration it was written at.
    file = run.checkpoints.path(BEST if checkpoint == BEST else iteration)

    return {
        "run": str(run.path),
        "agent": run.config.agent,
        "env": env_label(run.config.env),
        "seed": run.config.seed,
        "iteration": iteration,
        "training_env_steps": loaded.progress.env_steps,
        "checkpoint": file.name,
        "checkpoint_sha256": hashlib.sha256(read_file(file)).hexdigest(),
        "git_commit": run.read_metadata().get("git_commit"),
    }


def _versions() -> dict[str, str]:
    """Versions of Python and of those of _PACKAGES that are installed."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
