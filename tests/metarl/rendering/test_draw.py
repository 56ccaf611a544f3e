"""`metarl render`: films and pictures show what the evaluator measures, and nothing is changed by it."""

import importlib.util
import io
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from PIL import Image
from torch import Tensor

from metarl.agents.policies.distributions import DiagonalGaussian
from metarl.agents.policies.reference import RandomPolicy
from metarl.cli.main import main
from metarl.envs.families.navigation import PointNavigation
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Uniform, select_tasks
from metarl.errors import EXIT_BAD_INPUT
from metarl.evaluation import plots
from metarl.evaluation.adaptation import adaptation_episodes, rollout_generator
from metarl.evaluation.evaluation import summarize
from metarl.rendering import draw as render
from metarl.rendering import heat_map
from metarl.rendering.camera import Camera, Clip, draw_trail
from metarl.rendering.encode import HOLD
from metarl.rendering.heat_map import HeatMap
from metarl.rendering.task_grid import task_grid
from metarl.rendering.video import Row, Scene, Video, outcome
from metarl.run.build import load_learner
from metarl.run.run_directory import RunDirectory
from tests.helpers.workbench import ENV, EPISODES, RUN, complaint, early_ending, files_under, train

pytest_plugins = ["tests.helpers.run_fixtures"]

DISTRIBUTION = make_distribution(ENV)
NUM_FRAMES = DISTRIBUTION.horizon + 1


def draw(*flags: str) -> None:
    assert main(["render", f"runs/{RUN}", *flags]) == 0


def opened(path: str | Path) -> Image.Image:
    return Image.open(io.BytesIO(Path(path).read_bytes()))


def report_of(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    draw(*flags, "--json")
    report = json.loads(capsys.readouterr().out)
    assert isinstance(report, dict)
    return report


# ---------------------------------------------------------------------- films


def test_gif_has_a_frame_for_every_step_and_runs_at_the_familys_pace(workplace: Path) -> None:
    draw("--out", "film.gif")
    film = opened(workplace / "film.gif")
    assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", NUM_FRAMES, 0)  # type: ignore[attr-defined]
    frames, durations = [], []
    for index in range(NUM_FRAMES):
        film.seek(index)
        frames.append(np.asarray(film.convert("RGB")))
        durations.append(film.info["duration"])
    assert set(durations[:-1]) == {1000 / DISTRIBUTION.env.render_fps}
    assert durations[-1] == durations[0] + 1000 * HOLD
    assert {frame.shape for frame in frames} == {(frames[0].shape[0], frames[0].shape[1], 3)}
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(frames))
    assert (frames[0][0, 0] == 255).all(), "the paper is white"


def test_mp4_has_the_frames_of_the_gif_and_stays_on_the_last(workplace: Path) -> None:
    draw("--out", "film.gif")
    draw("--out", "film.mp4", "--fps", "20")
    gif = iio.imread("film.gif", plugin="pillow")
    decode = [imageio_ffmpeg.get_ffmpeg_exe(), *["-i", "film.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]]
    decoded = subprocess.run(decode, capture_output=True, check=True)
    for described in ("h264", "yuv420p", f"{gif.shape[2]}x{gif.shape[1]}", "20 fps"):
        assert described in decoded.stderr.decode()
    film = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, *gif.shape[1:])
    assert len(film) == NUM_FRAMES + HOLD * 20
    assert np.abs(film[: len(gif)].astype(int) - gif).mean() < 3, "lossy, but the same pictures"
    assert np.abs(film[0].astype(int) - film[-1]).max() > 100


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """What films are made of, filled when one is made."""
    kept: list[Row] = []

    def film(title: str, rows: list[Row], horizon: int, stride: int) -> Video:
        kept.extend(rows)
        return Video(title, rows, horizon, stride)

    monkeypatch.setattr(render, "Video", film)
    return kept


def test_captions_are_the_returns_that_the_evaluator_measures(
    workplace: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num-tasks", "2", "--seed", "3", "--steps", "2", "--episodes", "4"]
    drawn = report_of(capsys, "--out", "film.gif", *flags)
    assert main(["evaluate", f"runs/{RUN}", "--json", *flags]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    for key in ("return_mean", "return_ci95", "total_env_steps", "episodes_per_step", "adaptation_steps"):
        assert drawn[key] == evaluated[key]
    assert len(set(evaluated["return_mean"])) == 3
    shown = [[float(scene.value.removeprefix("return ").replace("−", "-")) for scene in row.scenes] for row in rows]
    np.testing.assert_allclose(np.mean(shown, axis=0), evaluated["return_mean"], atol=0.06)
    captions = [scene.caption for scene in rows[0].scenes]
    assert captions == ["before adaptation", "after 4 episodes", "after 8 episodes"]
    goals = DISTRIBUTION.sample(2, "test")["goal"]
    assert rows[1].label == f"test task 2: goal={goals[1, 0]:.3g},{goals[1, 1]:.3g}"


def test_one_task_is_shown_and_named(workplace: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    drawn = report_of(capsys, "--out", "film.gif", "--task", "goal=0,1")
    assert main(["evaluate", f"runs/{RUN}", "--json", "--task", "goal=0,1", "--num-tasks", "1"]) == 0
    assert drawn["return_mean"] == json.loads(capsys.readouterr().out)["return_mean"]
    assert [row.label for row in rows] == ["the task: goal=0,1"]


def test_the_camera_sees_every_state_of_the_first_episode_and_changes_nothing() -> None:
    distribution = early_ending()
    distribution.env.plane_view = None  # no trail: the picture is the family's own
    tasks, policy = distribution.sample(3, "test"), RandomPolicy(distribution.action_space)
    camera = Camera(distribution.env.bind_for_rendering(tasks, 2), distribution.env, size=256)
    rendered = collect(camera, policy, {}, torch.Generator().manual_seed(1))
    plain = collect(distribution.bind(tasks, 2), policy, {}, torch.Generator().manual_seed(1))
    assert torch.equal(rendered.obs, plain.obs)
    assert len({clip.steps for clip in camera.clips[0]}) > 1, "all episodes are of one length: nothing is shown"
    for m, clip in enumerate(camera.clips[0]):
        steps = int(plain.mask[m, 0].sum())
        states = [*plain.obs[m, 0, :steps], plain.last_obs[m, 0]]
        assert (clip.steps, len(clip.frames)) == (steps, steps + 1)
        assert clip.ending == ("reached" if plain.terminated[m, 0] else "")
        one = {name: value[m] for name, value in tasks.items()}
        for frame, state in zip(clip.frames, states, strict=True):
            _, expected = distribution.task_env.render_image(state, None, one)
            np.testing.assert_array_equal(frame, expected)


def test_long_episodes_are_rendered_at_intervals_and_at_their_end() -> None:
    distribution = early_ending()
    tasks, policy = distribution.sample(3, "test"), RandomPolicy(distribution.action_space)
    family = distribution.env
    cameras = [Camera(family.bind_for_rendering(tasks, 1), family, 64, stride) for stride in (1, 4)]
    for camera in cameras:
        collect(camera, policy, {}, torch.Generator().manual_seed(1))
    for every, some in zip(cameras[0].clips[0], cameras[1].clips[0], strict=True):
        wanted = [*range(0, every.steps, 4), every.steps]
        assert len(some.frames) == len(wanted)
        assert all(np.array_equal(some.frames[i], every.frames[at]) for i, at in enumerate(wanted))


def test_an_episode_that_is_over_stays_faded_until_the_last_one_is() -> None:
    def picture(value: int) -> np.ndarray:
        return np.full((40, 160, 3), value, np.uint8)

    short = Clip([picture(10), picture(20)], steps=1, ending="fell")
    long = Clip([picture(30), picture(40), picture(50)], steps=2)
    scenes = [Scene("before", "", "", short), Scene("after", "", "", long)]
    film = Video("title", [Row("task", scenes)], horizon=5, stride=1)
    assert len(film) == 3

    def shown(index: int, value: int) -> bool:
        return bool((film[index] == value).all(axis=2).sum() > 3000)

    assert [shown(0, 10), shown(1, 20), shown(2, 20), shown(2, 20 // 2 + 127)] == [True, True, False, True]
    assert [shown(0, 30), shown(1, 40), shown(2, 50)] == [True, True, True]


def test_a_trail_is_drawn_where_the_episode_has_been() -> None:
    image = Image.new("RGB", (200, 200), "white")
    draw_trail(image, [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)], plane_view=2.0)
    ink = np.asarray(image) != 255
    rows, columns = np.nonzero(ink.any(axis=2))
    assert (columns.min(), columns.max()) == pytest.approx((100, 154), abs=2), "x from 0 to 1, and the dot there"
    assert (rows.min(), rows.max()) == pytest.approx((46, 100), abs=2), "y points up"


def test_how_episodes_end_is_said_in_words() -> None:
    assert outcome(Clip([], steps=22, ending="reached")) == "reached after 22 steps"
    assert outcome(Clip([], steps=1, ending="fell")) == "fell after 1 step"
    assert outcome(Clip([], steps=50)) == ""
    cart_pole = make_distribution("cart-pole").env
    assert cart_pole.ending(torch.tensor([0.0, 0.0, 0.3, 0.0])) == "fell"
    assert cart_pole.ending(torch.tensor([-2.5, 0.0, 0.0, 0.0])) == "left the track"


# ---------------------------------------------------------------------- stills


def test_still_of_a_family_with_a_plane_is_its_trajectories(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    original = plots.trajectories

    def trajectories(distribution: Any, tasks: Any, batches: Any, num_tasks: int) -> Any:
        figure = original(distribution, tasks, batches, num_tasks)
        assert figure is not None
        seen.append((num_tasks, len(figure.axes)))
        return figure

    monkeypatch.setattr(plots, "trajectories", trajectories)
    draw("--out", "still.png", "--num-tasks", "3", "--steps", "2")
    assert seen == [(3, 9)]
    assert opened("still.png").format == "PNG"


def test_still_of_a_family_without_a_plane_is_pictures_through_the_episodes(tmp_path: Path) -> None:
    run = train(tmp_path, env="pendulum")
    for steps in (0, 1):
        assert main(["render", str(run), "--out", str(tmp_path / f"{steps}.png"), "--steps", str(steps)]) == 0
    before, after = (opened(tmp_path / f"{steps}.png") for steps in (0, 1))
    assert before.width == after.width
    assert before.height < after.height < 2 * before.height
    assert np.asarray(after).std() > 5


# ---------------------------------------------------------------------- heat maps


@pytest.fixture
def noise_by_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploration that depends on the episode's number only, not on a generator or on the number of tasks."""

    def sample(self: DiagonalGaussian, generator: torch.Generator) -> Tensor:
        return self.mean + torch.linspace(-1, 1, EPISODES).unsqueeze(-1)

    monkeypatch.setattr(DiagonalGaussian, "sample", sample)


def test_heat_map_holds_what_evaluating_each_task_alone_gives(
    noise_by_episode: None, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = report_of(capsys, "--heat-map", "--out", "map.png", "--grid", "6")
    assert [task["in_training_range"] for task in drawn["tasks"]] == [True] * 3 + [False] * 3
    assert len({round(task["return"][0], 3) for task in drawn["tasks"]}) == 6
    for task in drawn["tasks"]:
        written = json.dumps(task["task"])
        assert main(["evaluate", f"runs/{RUN}", "--json", "--task", written, "--num-tasks", "1"]) == 0
        alone = json.loads(capsys.readouterr().out)
        np.testing.assert_allclose(task["return"], alone["return_mean"], rtol=1e-4)
    assert opened("map.png").format == "PNG"


def test_heat_map_adapts_to_its_whole_grid_in_one_batch(workplace: Path) -> None:
    distribution, learner, _ = load_learner(RunDirectory.open(f"runs/{RUN}"))
    grid = task_grid(distribution, (), distribution.default_task(), 4)
    heat = heat_map.heat_map(learner, distribution, grid, 2, 3, rollout_generator(torch.device("cpu"), 5))
    batches = adaptation_episodes(learner, distribution, grid.tasks, 2, 3, rollout_generator(torch.device("cpu"), 5))
    evaluation = summarize(batches)
    np.testing.assert_array_equal(heat.returns, evaluation.returns)
    assert heat.env_steps == evaluation.total_env_steps


def test_maps_show_each_return_where_its_task_lies() -> None:
    distribution = make_distribution("point-navigation/finn")
    grid = task_grid(distribution, (), distribution.default_task(), 4)
    goal = grid.tasks["goal"].double().numpy()
    before = goal[:, 0] + 10 * goal[:, 1]
    heat = HeatMap(grid, np.stack([before, -before]), env_steps=0)
    assert goal[heat.weakest].tolist() == [0.25, 0.25]
    figure = heat_map.draw(heat, "title")
    maps = [axes for axes in figure.axes if axes.collections and axes.get_xlabel()]
    assert len(maps) == 3
    shown = [np.arange(16), np.arange(16), np.flatnonzero(grid.trained)]
    for axes, sign, tasks in zip(maps, (1, -1, -1), shown, strict=True):
        (mesh,) = (c for c in axes.collections if isinstance(c, QuadMesh))
        array: Any = mesh.get_array()
        values = np.ma.filled(array, np.nan)
        corners: Any = mesh.get_coordinates()
        assert np.isfinite(values).sum() == len(tasks)
        for task in tasks:
            x, y = goal[task]
            row, column = np.argwhere(np.isclose(values, sign * (x + 10 * y)))[0]
            (left, low), (right, high) = corners[row, column], corners[row + 1, column + 1]
            assert left < x < right
            assert low < y < high
    scales = [axes.collections[0].get_clim() for axes in maps]
    assert scales[0] == scales[1] == (min(heat.returns.flat), max(heat.returns.flat)), "before and after are one scale"
    inside = heat.returns[-1, grid.trained]
    assert scales[2] == (inside.min(), inside.max())
    bars = [axes.get_ylabel() for axes in figure.axes if axes not in maps]
    assert bars == ["return", "return, a scale of its own"]
    assert [len(axes.patches) for axes in maps] == [1, 1, 0], "the training square, where there is something around it"
    assert maps[0].patches[0].get_extents().transformed(maps[0].transData.inverted()).bounds == pytest.approx(
        (-0.5, -0.5, 1, 1)
    )


def test_one_dimension_is_drawn_as_curves() -> None:
    distribution = make_distribution("point-navigation/pearl")
    grid = task_grid(distribution, (), distribution.default_task(), 4)
    heat = HeatMap(grid, np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), env_steps=0)
    (axes,) = heat_map.draw(heat, "title").axes
    curves = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    assert curves == {"before adaptation": [1, 2, 3, 4], "after 1 adaptation step": [5, 6, 7, 8]}
    assert heat.weakest == 0


# ---------------------------------------------------------------------- nothing is changed, nothing is left


KINDS = ["film.gif", "film.mp4", "still.png", "map.png --heat-map --grid 3"]


@pytest.mark.parametrize("kind", KINDS)
def test_rendering_leaves_the_run_bit_identical_and_writes_one_file(workplace: Path, kind: str) -> None:
    before = files_under(workplace)
    draw("--out", *kind.split())
    after = files_under(workplace)
    assert set(after) - set(before) == {kind.split()[0]}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_picture(workplace: Path, kind: str) -> None:
    name, contents = kind.split()[0], []
    for seed in ("1", "1", "2"):
        draw("--out", *kind.split(), "--seed", seed)
        contents.append((workplace / name).read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_environment_steps_are_counted_and_printed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw("--out", "film.gif", "--num-tasks", "2", "--steps", "1", "--episodes", "3")
    assert f"{2 * 2 * 3 * DISTRIBUTION.horizon} environment steps; written: film.gif" in capsys.readouterr().out
    draw("--heat-map", "--out", "map.png", "--grid", "5", "--steps", "1", "--episodes", "3")
    assert f"{5 * 2 * 3 * DISTRIBUTION.horizon} environment steps; written: map.png" in capsys.readouterr().out


def test_a_film_that_cannot_be_finished_leaves_the_old_one(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "film.gif").write_bytes(b"old")
    before = files_under(workplace)

    def full(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    assert main(["render", RUN, "--out", "film.gif"]) == EXIT_BAD_INPUT
    assert files_under(workplace) == before


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("", "--out"),
        ("--out film.avi", "must end in .mp4, .gif or .png, got 'film.avi'"),
        ("--out film", "must end in"),
        ("--out /proc/film.gif", "/proc/film.gif cannot be written"),
        ("--out file/film.gif", "cannot be written"),
        ("--out folder.png", "folder.png cannot be written: it is a directory"),
        ("--out film.gif --task goal=9,9", "outside its range"),
        ("--out film.gif --task speed=1", "needs ['goal']"),
        ("--out film.gif --split valid", "'valid'"),
        ("--out film.gif --num-tasks 9", "num_tasks must be at most 8"),
        ("--out film.gif --fps 0", "fps must be between 0.1 and 100, got 0"),
        ("--out film.gif --steps -1", "steps must be at least 0"),
        ("--out film.gif --seed -1", "seed must be at least 0"),
        ("--out film.gif --checkpoint 99", "no checkpoint '99'"),
        ("--out film.gif --device tpu", "'tpu'"),
        ("--out film.gif --heat-map", "--out must end in .png"),
        ("--out film.png --over goal", "--over goes with --heat-map"),
        ("--out map.png --heat-map --over gain", "the task parameters are goal"),
        ("--out map.png --heat-map --grid 1", "grid must be at least 2"),
        ("--out map.png --heat-map --grid 201", "grid must be at most 200"),
        ("--out map.png --heat-map --grid 200 --episodes 10000000", "lower --grid, --episodes or --steps"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    flags: str, named: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "file").touch()
    (workplace / "folder.png").mkdir()
    before = files_under(workplace)
    assert main(["render", RUN, *flags.split()]) == EXIT_BAD_INPUT
    assert named in complaint(capsys)
    assert files_under(workplace) == before


def test_a_missing_package_is_named_with_its_remedy(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "imageio_ffmpeg" else find(name, *rest)
    )
    assert main(["render", RUN, "--out", "film.mp4"]) == EXIT_BAD_INPUT
    assert ".[render]" in complaint(capsys)
    draw("--out", "film.gif")


class Unseen(PointNavigation):
    """Has nothing to show."""

    render_image = TaskEnv.render_image
    plane_position = TaskEnv.plane_position  # type: ignore[assignment]


def unseen() -> TaskDistribution:
    return TaskDistribution(Unseen(horizon=5), {"goal": Uniform(-1, 1, shape=(2,))})


def test_a_family_without_pictures_is_refused_but_has_its_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, env=f"{__name__}:unseen")
    before = files_under(tmp_path)
    for out in ("film.gif", "still.png"):
        capsys.readouterr()
        assert main(["render", str(run), "--out", str(tmp_path / out)]) == EXIT_BAD_INPUT
        assert "cannot be rendered: it has no render_image()" in complaint(capsys)
    assert files_under(tmp_path) == before
    assert main(["render", str(run), "--heat-map", "--grid", "3", "--out", str(tmp_path / "map.png")]) == 0


def test_returns_of_the_first_tasks_do_not_depend_on_what_is_drawn(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A film draws nothing from the generator: the still has the same returns."""
    film, still = (report_of(capsys, "--out", out) for out in ("film.gif", "still.png"))
    assert film["return"] == still["return"]
    assert film["tasks"] == [
        {"goal": goal} for goal in select_tasks(DISTRIBUTION.sample(2, "test"), slice(2))["goal"].tolist()
    ]
