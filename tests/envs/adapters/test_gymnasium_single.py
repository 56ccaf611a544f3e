"""One environment of Gymnasium: both environment checkers, the task option, rendering."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from metarl.envs import FAMILIES, TaskDistribution, TaskGymEnv, TaskVectorEnv
from metarl.envs.task_env import State
from metarl.envs.task_space import Task
from tests.helpers.corridor import Corridor, corridor

POINT = "metarl/PointNavigation-v0"


@pytest.mark.parametrize("task", [None, "sample"])
def test_both_checkers_pass_a_dict_state_and_discrete_actions(task: str | None) -> None:
    env = TaskGymEnv(corridor(), task)
    check_env(env, skip_render_check=True)  # it asks for a spec to make other render modes from
    check_env_for_sb3(env)


def test_one_environment_follows_the_equations() -> None:
    env = gymnasium.make(POINT, task={"goal": [0.3, 0.2]})
    obs, info = env.reset(seed=0)
    assert obs.tolist() == [0.0, 0.0]
    assert info["task"]["goal"].tolist() == pytest.approx([0.3, 0.2])
    obs, reward, terminated, truncated, _ = env.step(np.array([1.0, 0.5], np.float32))
    assert obs.dtype == np.float32
    assert obs.tolist() == pytest.approx([0.1, 0.05])
    assert reward == pytest.approx(-0.25)
    assert (terminated, truncated) == (False, False)
    env.step(np.array([1.0, 1.0], np.float32))
    obs, reward, terminated, truncated, _ = env.step(np.array([9.0, 0.5], np.float32))  # clipped to the goal
    assert obs.tolist() == pytest.approx([0.3, 0.2])
    assert reward == pytest.approx(0.0, abs=1e-6)
    assert (terminated, truncated) == (True, False)


def test_make_truncates_at_the_horizon() -> None:
    env = gymnasium.make("metarl/PointNavigationPearl-v0")
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(20)]
    assert flags == [(False, False)] * 19 + [(False, True)]


def test_the_task_option_holds_until_changed() -> None:
    env = TaskGymEnv("point-navigation")

    def goal(**reset: Any) -> Any:
        return env.reset(**reset)[1]["task"]["goal"].tolist()

    assert goal(seed=0) == pytest.approx([0.3, 0.2])
    assert goal(options={"task": {"goal": [-0.4, 0.1]}}) == pytest.approx([-0.4, 0.1])
    assert goal() == pytest.approx([-0.4, 0.1])
    assert goal(options={}) == pytest.approx([-0.4, 0.1])
    sampled = [goal(options={"task": "sample"}), goal(), goal()]
    assert len({tuple(g) for g in sampled}) == 3
    assert goal(options={"task": None}) == pytest.approx([0.3, 0.2])
    assert goal() == pytest.approx([0.3, 0.2])


def test_the_task_holds_during_an_episode_and_its_info_is_the_readers_own() -> None:
    env = TaskGymEnv("point-dynamics", task="sample")
    _, info = env.reset(seed=3)
    expected = {name: value.copy() for name, value in info["task"].items()}
    for value in info["task"].values():
        value[...] = 99
    assert data_equivalence(env.step(np.ones(2))[4]["task"], expected, exact=True)


def test_sampled_tasks_are_training_tasks_and_follow_the_seed() -> None:
    def goals(seed: int) -> list[Any]:
        env = TaskGymEnv("point-navigation/pearl", task="sample")
        infos = [env.reset(seed=seed)[1], *(env.reset()[1] for _ in range(20))]
        return [info["task"]["goal"].tolist() for info in infos]

    drawn = goals(5)
    assert drawn == goals(5)
    assert not {tuple(g) for g in drawn} & {tuple(g) for g in goals(6)}
    assert len({tuple(g) for g in drawn}) == 21
    assert FAMILIES["point-navigation/pearl"].make().train["goal"].contains(torch.tensor(drawn)).all()


def test_a_returned_observation_is_not_written_again() -> None:
    env = TaskGymEnv("point-navigation")
    first, _ = env.reset(seed=0)
    second = env.step(np.ones(2))[0]
    first[:] = 7
    second_before = second.copy()
    assert env.step(np.zeros(2))[0].tolist() == pytest.approx([0.1, 0.1])
    assert (second == second_before).all()


def test_seeding_one_environments_actions_leaves_anothers_alone() -> None:
    one, other = TaskGymEnv("point-navigation"), TaskGymEnv("point-navigation")
    one.action_space.seed(0)
    expected = one.action_space.sample()
    one.action_space.seed(0)
    other.action_space.seed(1)
    assert (one.action_space.sample() == expected).all()


# Rendering


def test_the_picture_shows_the_point_move() -> None:
    env = gymnasium.make(POINT, render_mode="rgb_array")
    env.reset(seed=0)
    before: Any = env.render()
    env.step(np.zeros(2, np.float32))
    still: Any = env.render()
    env.step(np.array([1.0, 0.0], np.float32))
    moved: Any = env.render()
    assert before.shape == (256, 256, 3)
    assert before.dtype == np.uint8
    assert (before == still).all()
    assert (before != moved).any()
    blue = (moved[..., 2] > 200) & (moved[..., 0] < 100)
    assert np.argwhere(blue).mean(axis=0) == pytest.approx(
        [127, 127 + 0.1 / 1.25 * 128], abs=1.5
    )  # 0.1 right of centre


def test_human_mode_shows_the_picture_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    import pygame

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env, seen = (gymnasium.make(POINT, render_mode=mode) for mode in ("human", "rgb_array"))
    for each in (env, seen):
        each.reset(seed=0)
        each.step(np.ones(2, np.float32))
    window = pygame.display.get_surface()
    assert window is not None
    assert (pygame.surfarray.array3d(window).swapaxes(0, 1) == seen.render()).all()
    assert env.render() is None
    env.close()
    assert pygame.display.get_surface() is None
    env.close()


def test_the_renderer_is_started_once_and_released() -> None:
    calls: list[str] = []

    class Drawn(Corridor):
        def render_init(self, params: Task, **kwargs: Any) -> Any:
            calls.append("init")
            return "renderer"

        def render_image(self, state: State, render_state: Any, params: Task) -> Any:
            calls.append(render_state)
            return render_state, np.full((4, 6, 3), int(state["n"]), np.uint8)

        def render_close(self, render_state: Any, params: Task | None = None) -> None:
            calls.append("close")

    env = TaskGymEnv(TaskDistribution(Drawn(), corridor().train), render_mode="rgb_array")
    env.reset(seed=0)
    assert calls == []
    for _ in range(2):
        env.step(1)
        env.render()
    env.close()
    env.close()
    assert calls == ["init", "renderer", "renderer", "close"]


class Wrong(Corridor):
    """Observes something else than its space says."""

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.factor = factor

    def observation(self, state: State, rng: torch.Generator, params: Task | None = None) -> torch.Tensor:
        """Times a factor."""
        assert params is not None
        seen: torch.Tensor = super().observation(state, rng, params) * self.factor
        return seen


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (torch.ones(2, 3, 1), "its observation must have the shape .*, got "),
        (torch.nan, "environment Wrong on the task {.*}: its observation is not finite: nan at index 0"),
    ],
)
def test_an_observation_that_does_not_fit_its_space_is_refused(factor: Any, message: str) -> None:
    distribution = TaskDistribution(Wrong(factor), corridor().train)
    with pytest.raises(ValueError, match=message):
        TaskGymEnv(distribution).reset(seed=0)
    with pytest.raises(ValueError, match=message):
        TaskVectorEnv(3, distribution, "sample").reset(seed=0)
