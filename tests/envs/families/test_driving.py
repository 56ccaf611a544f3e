"""Driving against closed forms of vehicle dynamics, its equations in plain Python, and the car in the plane."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid, solve_ivp
from torch import Tensor

from metarl.envs.families.driving import (
    RACING_STYLES,
    Driving,
    LaneKeeping,
    RacingLine,
    Style,
    delayed,
    lane_keeping,
    racing_line,
)
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Task, num_tasks_of, tasks_to_json
from tests.helpers.family_play import play, rng

torch.set_num_threads(1)  # tensors this small gain nothing from more, and test processes would fight over the cores

G, STIFFNESS, MAX_STEER, MAX_FORCE, DT = 9.81, 160_000.0, 0.12, 6000.0, 0.1
GOLDEN = 1.618033988749895
FACTORIES: list[Callable[[], TaskDistribution]] = [lane_keeping, racing_line]
both = pytest.mark.parametrize("make", FACTORIES)


def car(**changed: float) -> Task:
    """A car on a straight road, float64, without delay."""
    nominal = {
        "friction": 0.9,
        "mass": 1500.0,
        "wheelbase": 2.7,
        "actuator_delay": 0.0,
        "curvature": 0.0,
        "wavelength": 200.0,
        "target_speed": 15.0,
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in {**nominal, **changed}.items()}


def plain(tasks: Task) -> list[dict[str, float]]:
    """Each task as numbers."""
    return [{name: float(str(value)) for name, value in task.items()} for task in tasks_to_json(tasks)]


def start(env: Driving, params: Task, speed: float) -> State:
    """On the centre line, straight ahead, at this speed."""
    state = env.initial(rng(), params)
    zeros = torch.zeros_like(params["mass"])
    return {**state, "speed": zeros + speed, "lateral_error": zeros, "heading_error": zeros}


def body_motion(env: Driving, state: State, params: Task) -> tuple[Tensor, Tensor]:
    """v_y and r of the axles' lateral velocities v_y + l_f r and v_y − l_r r."""
    front, rear = state["axle_velocity"].unbind(-1)
    yaw_rate = (front - rear) / params["wheelbase"]
    return rear + env.front_share * params["wheelbase"] * yaw_rate, yaw_rate


def drive(env: TaskEnv, state: State, params: Task, action: tuple[float, float], steps: int) -> State:
    """Hold an action."""
    for _ in range(steps):
        state = env.transition(state, torch.tensor(action, dtype=torch.float64), rng(), params)
    return state


@pytest.mark.parametrize("front_share", [0.59, 0.5, 0.47], ids=["understeer", "neutral", "oversteer"])
@pytest.mark.parametrize("speed", [5.0, 15.0, 25.0, 35.0])
@pytest.mark.parametrize(("mass", "wheelbase"), [(1000.0, 2.4), (2500.0, 3.2)])
def test_steady_cornering_follows_the_understeer_relation(
    front_share: float, speed: float, mass: float, wheelbase: float
) -> None:
    """δ = L/R + K a_y with K = m/L (l_r/C_f − l_f/C_r), so r = v δ/(L + K v²), and v_y = l_r r − v m_r v r/C_r."""
    env = Driving(half_width=5.0, initial_speed=speed, front_share=front_share)
    params = car(mass=mass, wheelbase=wheelbase)
    steer = 5e-4
    state = drive(env, start(env, params, speed), params, (steer / MAX_STEER, 0.0), 100)
    rear_arm, front_arm = front_share * wheelbase, (1 - front_share) * wheelbase
    gradient = mass / wheelbase * (rear_arm / STIFFNESS - front_arm / STIFFNESS)
    v = float(state["speed"])
    lateral, yaw_rate = body_motion(env, state, params)
    assert v == pytest.approx(speed, rel=1e-3)
    assert float(yaw_rate) == pytest.approx(v * steer / (wheelbase + gradient * v**2), rel=2e-3)
    rear_slip = mass * (1 - front_share) * v * float(yaw_rate) / STIFFNESS
    assert float(lateral) == pytest.approx(rear_arm * float(yaw_rate) - v * rear_slip, rel=5e-3, abs=1e-5)


@pytest.mark.parametrize("steer", [0.01, -0.12])
@pytest.mark.parametrize("mass", [1000.0, 3500.0])
def test_a_slow_car_is_the_kinematic_bicycle(steer: float, mass: float) -> None:
    """r = v δ/L and no slip of the rear axle, v_y = l_r r, from the first second on."""
    env = Driving(half_width=5.0, initial_speed=1.0)
    params = car(mass=mass)
    state = start(env, params, 1.0)
    for _ in range(10):
        state = drive(env, state, params, (steer / MAX_STEER, -0.1), 10)
        lateral, yaw_rate = body_motion(env, state, params)
        assert float(state["speed"]) == 1.0  # braked and creeping
        assert float(yaw_rate) == pytest.approx(steer / 2.7, rel=5e-3)
        assert float(lateral) == pytest.approx(0.59 * 2.7 * float(yaw_rate), rel=2e-2)
    turned = float(state["heading_error"])
    assert turned == pytest.approx(10.0 * steer / 2.7, rel=1e-2)
    # the centre of mass runs on a circle whose chord has the mean direction of motion
    slip = 0.59 * steer
    radius = math.hypot(2.7 / steer, 0.59 * 2.7)
    chord = 2 * radius * math.sin(abs(turned) / 2)
    if abs(turned) < 0.1:  # the longer one leaves the road, where the lateral error is held
        assert float(state["lateral_error"]) == pytest.approx(chord * math.sin(turned / 2 + slip), rel=1e-2)
        assert float(state["distance"]) == pytest.approx(chord * math.cos(turned / 2 + slip), rel=1e-2)


@pytest.mark.parametrize("friction", [0.2, 0.5, 1.0])
def test_forces_stay_within_the_friction_circle_and_reach_it(friction: float) -> None:
    """a_x² + a_y² ≤ (μ g)², a_y = v̇_y + v_x r, under violent actions."""
    env = Driving(half_width=5.0, initial_speed=30.0, num_substeps=1)
    num_cars = 200
    generator = rng(3)
    params = {name: value.expand(num_cars) for name, value in car(friction=friction).items()}
    params["mass"] = 1000 + 2500 * torch.rand(num_cars, generator=generator, dtype=torch.float64)
    state = start(env, params, 30.0)
    largest, cornering = torch.zeros(num_cars), torch.zeros(num_cars)
    action = torch.zeros(num_cars, 2, dtype=torch.float64)
    for time in range(100):
        if time % 5 == 0:
            action = 2 * torch.randn(num_cars, 2, generator=generator, dtype=torch.float64)
            action[: num_cars // 2, 1] = 0
        before, yaw_rate = body_motion(env, state, params)
        state_after = env.transition(state, action, rng(), params)
        after, _ = body_motion(env, state_after, params)
        lateral = (after - before) / DT + state["speed"] * yaw_rate
        longitudinal = (MAX_FORCE * action[:, 1].clamp(-1, 1) / params["mass"]).abs().clamp(max=0.9 * friction * G)
        largest = torch.maximum(largest, torch.hypot(lateral, longitudinal))
        cornering = torch.maximum(cornering, lateral.abs())
        state = state_after
    assert float(largest.max()) <= friction * G * (1 + 1e-9)
    assert float(cornering.max()) > 0.9 * friction * G


@pytest.mark.parametrize("delay_steps", [0, 1, 2, 4])
def test_a_steering_step_arrives_after_exactly_the_delay(delay_steps: int) -> None:
    """Nothing turns before, and from then on the car moves as one without delay that was steered later."""
    env = Driving(half_width=5.0, initial_speed=15.0)
    late, prompt = car(actuator_delay=delay_steps * DT), car()
    a, b = start(env, late, 15.0), start(env, prompt, 15.0)
    a, b = (drive(env, state, params, (0.0, 0.0), 3) for state, params in ((a, late), (b, prompt)))
    for time in range(12):
        arrived = time >= delay_steps
        a = drive(env, a, late, (0.3, 0.0), 1)
        b = drive(env, b, prompt, (0.3 if arrived else 0.0, 0.0), 1)
        assert bool(a["axle_velocity"][0] != 0) == arrived
        for name in ("distance", "lateral_error", "heading_error", "speed", "axle_velocity"):
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.05, 0.1, 0.27, 0.4])
def test_the_delayed_command_is_the_mean_of_the_held_signal_over_the_step(delay: float) -> None:
    commands = [0.3, -1.0, 0.7, 0.2, -0.4]  # newest first: commands[j] is held from −j Δt to (1 − j) Δt
    times = (np.arange(100_000) + 0.5) / 100_000 * DT - delay
    ages = np.ceil(-times / DT).astype(int)
    mean = np.mean(np.array(commands)[ages])
    got = delayed(torch.tensor(commands, dtype=torch.float64), torch.tensor(delay, dtype=torch.float64))
    assert float(got) == pytest.approx(mean, abs=1e-4)


class PlainCar:
    """The textbook's bicycle in (v_y, r) with the math module only, in the same substeps."""

    def __init__(self, env: Driving, task: dict[str, float], offset: float, heading: float) -> None:
        self.env, self.task = env, task
        self.s, self.e_y, self.e_psi, self.v_x, self.v_y, self.r = 0.0, offset, heading, env.initial_speed, 0.0, 0.0
        self.commands = [0.0] * 20

    def curvature(self, s: float) -> float:
        """Of the road, 1/m."""
        theta = 2 * math.pi * s / self.task["wavelength"]
        return self.task["curvature"] / 2 * (math.sin(theta) + math.sin(GOLDEN * theta))

    def step(self, steering: float, pedal: float) -> None:
        """One environment step."""
        task, h, mu_g = self.task, DT / 2, self.task["friction"] * G
        l_r = 0.59 * task["wheelbase"]
        l_f = task["wheelbase"] - l_r
        m, inertia = task["mass"], task["mass"] * l_f * l_r
        load_f, load_r = m * l_r / task["wheelbase"], m * l_f / task["wheelbase"]  # by g
        self.commands.insert(0, MAX_STEER * max(-1.0, min(1.0, steering)))
        whole = int(task["actuator_delay"] / DT)
        part = task["actuator_delay"] / DT - whole
        delta = (1 - part) * self.commands[whole] + part * self.commands[whole + 1]
        a_x = max(-0.9 * mu_g, min(0.9 * mu_g, MAX_FORCE * max(-1.0, min(1.0, pedal)) / m))
        grip = math.sqrt(mu_g**2 - a_x**2)

        def force(slip: float, load: float) -> float:
            """Of the slip that a linear tyre leaves at the end of the substep."""
            left = (slip + h * self.r) / (1 + h * STIFFNESS / (load * self.v_x))
            linear = STIFFNESS * left
            return linear / math.sqrt(1 + (linear / (load * grip)) ** 2)

        for _ in range(2):
            f_f = force(delta - (self.v_y + l_f * self.r) / self.v_x, load_f)
            f_r = force(-(self.v_y - l_r * self.r) / self.v_x, load_r)
            old = self.v_x, self.v_y, self.r
            self.v_x += h * (a_x + old[1] * old[2] - f_f * delta / m)
            self.v_x = max(1.0, min(50.0, self.v_x))
            self.v_y += h * ((f_f + f_r) / m - old[0] * old[2])
            self.r += h * (l_f * f_f - l_r * f_r) / inertia
            v_x, v_y, r = (old[0] + self.v_x) / 2, (old[1] + self.v_y) / 2, (old[2] + self.r) / 2
            kappa = self.curvature(self.s)
            heading = self.e_psi + h / 2 * (r - kappa * v_x)
            progress = (v_x * math.cos(heading) - v_y * math.sin(heading)) / (1 - kappa * self.e_y)
            self.s += h * progress
            self.e_y += h * (v_x * math.sin(heading) + v_y * math.cos(heading))
            self.e_psi += h * (r - kappa * progress)

    def observation(self) -> list[float]:
        """What the agent sees."""
        env = self.env
        seen = [
            self.e_y / env.half_width,
            self.e_psi / 0.2,
            (self.v_x - env.initial_speed) / 10,
            self.v_y,
            self.r / 0.3,
        ]
        spacing = {4: 15.0, 5: 20.0}[env.preview_points]
        seen += [self.curvature(self.s + spacing * i) / 0.01 for i in range(env.preview_points)]
        return [max(-10.0, min(10.0, value)) for value in seen]

    def over(self) -> bool:
        """Off the road or spun round."""
        return abs(self.e_y) > self.env.half_width or abs(self.e_psi) > math.pi / 2


@both
@pytest.mark.parametrize("split", ["test", "ood"])
def test_every_step_follows_the_equations(make: Callable[[], TaskDistribution], split: str) -> None:
    """Half of the cars are driven by the oracle with noise, half wildly."""
    distribution = make()
    env = distribution.env
    assert isinstance(env, LaneKeeping | RacingLine)
    num_cars = 20
    tasks = {name: value.double() for name, value in distribution.sample(num_cars, split).items()}
    state = env.initial(rng(1), tasks)
    assert bool((state["lateral_error"].abs() <= 0.5).all()) and bool((state["heading_error"].abs() <= 0.05).all())
    starts = zip(plain(tasks), state["lateral_error"].tolist(), state["heading_error"].tolist(), strict=True)
    cars = [PlainCar(env, *one) for one in starts]
    generator, compared = rng(2), 0
    for time in range(env.horizon):
        noise = torch.randn(num_cars, 2, generator=generator, dtype=torch.float64)
        action = env.oracle_action(env.observation(state, rng(), tasks), tasks, time) + 0.1 * noise
        action[::2] = 1.5 * noise[::2]
        next_state = env.transition(state, action, rng(), tasks)
        reward = env.reward(state, action, next_state, rng(), tasks)
        over, obs = env.terminal(next_state, rng(), tasks), env.observation(next_state, rng(), tasks)
        for i, one in enumerate(cars):
            if one.over():
                continue
            s, (steering, pedal) = one.s, action[i].tolist()
            one.step(steering, pedal)
            effort = min(1.0, abs(steering)) ** 2 + min(1.0, abs(pedal)) ** 2
            if isinstance(env, LaneKeeping):
                slow = min(1.0, abs(one.v_x - one.task["target_speed"]) / 10)
                expected = 1 - 0.4 * min(1.0, abs(one.e_y) / 2) ** 2 - 0.5 * slow - 0.05 * effort
            else:
                expected = (one.s - s) / 2 - 0.01 * effort
            assert obs[i].tolist() == pytest.approx(one.observation(), abs=1e-8)
            assert float(reward[i]) == pytest.approx(expected, abs=1e-8)
            assert bool(over[i]) == one.over()
            compared += 1
        state = next_state
    assert compared > 500
    assert any(one.over() for one in cars)


def drive_in_the_plane(task: dict[str, float], speed: float, actions: NDArray[Any]) -> tuple[float, ...]:
    """(s, e_y, e_ψ, v_x) after a car was integrated in X, Y, Ψ to 1e-9 and projected to the road's centre line."""
    m, wheelbase, mu_g = task["mass"], task["wheelbase"], task["friction"] * G
    l_r = 0.59 * wheelbase
    l_f = wheelbase - l_r

    def motion(_: float, car: NDArray[Any], delta: float, a_x: float) -> list[float]:
        _, _, psi, v_x, v_y, r = car
        grip = math.sqrt(mu_g**2 - a_x**2)
        forces = []
        for slip, load in (
            (delta - (v_y + l_f * r) / v_x, m * l_r / wheelbase),
            (-(v_y - l_r * r) / v_x, m * l_f / wheelbase),
        ):
            forces.append(STIFFNESS * slip / math.sqrt(1 + (STIFFNESS * slip / (load * grip)) ** 2))
        f_f, f_r = forces
        return [
            v_x * math.cos(psi) - v_y * math.sin(psi),
            v_x * math.sin(psi) + v_y * math.cos(psi),
            r,
            a_x - f_f * delta / m + v_y * r,
            (f_f + f_r) / m - v_x * r,
            (l_f * f_f - l_r * f_r) / (m * l_f * l_r),
        ]

    car = np.array([0.0, 0.0, 0.0, speed, 0.0, 0.0])
    for steering, pedal in actions:
        held = (MAX_STEER * steering, MAX_FORCE * pedal / m)
        car = solve_ivp(motion, (0.0, DT), car, args=held, rtol=1e-9, atol=1e-9).y[:, -1]
    s = np.linspace(0.0, 2 * speed * DT * len(actions), 200_001)
    theta = 2 * math.pi * s / task["wavelength"]
    angle = cumulative_trapezoid(task["curvature"] / 2 * (np.sin(theta) + np.sin(GOLDEN * theta)), s, initial=0)
    x, y = (cumulative_trapezoid(wave, s, initial=0) for wave in (np.cos(angle), np.sin(angle)))
    near = int(np.argmin(np.hypot(car[0] - x, car[1] - y)))
    offset = (car[1] - y[near]) * math.cos(angle[near]) - (car[0] - x[near]) * math.sin(angle[near])
    return float(s[near]), float(offset), float(car[2] - angle[near]), float(car[3])


@pytest.mark.parametrize(("friction", "amplitude"), [(0.9, 0.5), (0.35, 0.4)], ids=["grip", "slide"])
def test_the_car_moves_as_one_integrated_in_the_plane(friction: float, amplitude: float) -> None:
    """Two substeps are decimetres off after 3 s without feedback, four half as much, and many converge to its place."""
    task = {"friction": friction, "mass": 1400.0, "wheelbase": 2.6, "curvature": 0.02, "wavelength": 120.0}
    time = np.arange(30) * DT
    actions = np.stack([amplitude * np.sin(1.5 * time + 0.2), 0.4 * np.cos(2 * time)], axis=1)
    expected = drive_in_the_plane(task, 14.0, actions)
    params = car(**task)
    errors = {}
    for num_substeps in (2, 4, 64):
        env = Driving(half_width=20.0, initial_speed=14.0, num_substeps=num_substeps)
        state = start(env, params, 14.0)
        for action in torch.from_numpy(actions):
            state = env.transition(state, action, rng(), params)
        got = [float(state[name]) for name in ("distance", "lateral_error", "heading_error", "speed")]
        errors[num_substeps] = np.abs(np.array(got) - np.array(expected))
    assert abs(expected[1]) > 0.5  # the manoeuvre is not a straight line
    assert (errors[2] <= [0.1, 0.3, 0.03, 0.03]).all(), errors
    assert (errors[4] <= 0.65 * errors[2] + 1e-3).all(), errors
    assert (errors[64] <= [0.003, 0.012, 0.0012, 0.001]).all(), errors


@both
def test_an_episode_ends_off_the_road_and_when_spun_round(make: Callable[[], TaskDistribution]) -> None:
    env = make().env
    assert isinstance(env, Driving)
    params, width = car(), 2.0 if make is lane_keeping else 5.0
    state = start(env, params, 10.0)
    for name, limit in (("lateral_error", width), ("heading_error", math.pi / 2)):
        for sign in (1, -1):
            for share, over in ((0.999, False), (1.001, True)):
                moved = {**state, name: torch.tensor(sign * share * limit, dtype=torch.float64)}
                assert bool(env.terminal(moved, rng(), params)) is over


@both
def test_a_car_that_is_not_steered_leaves_a_winding_road_to_the_outside(make: Callable[[], TaskDistribution]) -> None:
    """The first bend turns left."""
    distribution = make()
    tasks = distribution.sample(50, "test")
    obs, _, terminated = play(distribution, tasks, torch.zeros(distribution.horizon, 50, 4, 2))
    assert bool(terminated.any(dim=0).float().mean() > 0.9)
    first = terminated.int().argmax(dim=0)
    offset = obs[1:, ..., 0].gather(0, first.unsqueeze(0))[0]
    straight = obs[0, ..., 1].abs() < 0.03 / 0.2
    sharp = (tasks["curvature"] > 0.006).unsqueeze(1)
    assert bool((offset < -1)[straight & sharp].float().mean() > 0.9)


@both
def test_ending_an_episode_early_is_never_an_advantage(make: Callable[[], TaskDistribution]) -> None:
    """No step of an oracle or of wild driving costs anything while the car is on the road and faces along it."""
    distribution = make()
    tasks = distribution.sample(100, "test")
    actions = 2 * torch.randn(distribution.horizon, 100, 4, 2, generator=rng(5))
    obs, reward, terminated = play(distribution, tasks, actions)
    on_road = (terminated.cumsum(dim=0) == 0) & (obs[1:, ..., 1].abs() < 1.2 / 0.2)
    assert bool((reward[on_road] >= 0).all())
    if make is lane_keeping:
        assert bool((reward <= 1).all())


def score(distribution: TaskDistribution, tasks: Task, oracle: bool) -> tuple[Tensor, Tensor]:
    """Return and number of steps of one episode of each task, (M,), driven by the oracle or at random."""
    env, num_tasks, generator = distribution.env, num_tasks_of(tasks), rng(6)
    assert isinstance(env, TaskEnv)
    state = env.initial(rng(7), tasks)
    alive, total, steps = torch.ones(num_tasks), torch.zeros(num_tasks), torch.zeros(num_tasks)
    for time in range(env.horizon):
        action = 2 * torch.rand(num_tasks, 2, generator=generator) - 1
        if oracle:
            action = env.oracle_action(env.observation(state, rng(), tasks), tasks, time)
        next_state = env.transition(state, action, rng(), tasks)
        total += alive * env.reward(state, action, next_state, rng(), tasks)
        steps += alive
        alive = alive * ~env.terminal(next_state, rng(), tasks)
        state = next_state
    return total, steps


@both
def test_the_oracle_stays_on_every_road_and_is_far_better_than_chance(make: Callable[[], TaskDistribution]) -> None:
    """Who races for progress alone may leave the road at the end, where nothing is lost any more."""
    distribution = make()
    drawn = (distribution.sample(100, "test"), distribution.sample(50, "ood"))
    tasks = {name: torch.cat([one[name] for one in drawn]) for name in drawn[0]}
    total, steps = score(distribution, tasks, oracle=True)
    whole = (steps == distribution.horizon).float()
    assert float(whole[:100].mean()) > (0.999 if make is lane_keeping else 0.8)
    assert float(whole[100:].mean()) > 0.9
    mean = float(total[:100].mean())
    assert mean > 5 * float(score(distribution, drawn[0], oracle=False)[0].mean())
    assert mean > (145 if make is lane_keeping else 175)  # of 150; 23 m/s, and above the 170 of a trained policy


def test_the_oracle_of_the_race_tries_out_what_is_fastest_on_each_task() -> None:
    """It is faster than each style for all tasks by itself, and a task has the same style in whatever company."""
    distribution = racing_line()
    env = distribution.env
    assert isinstance(env, RacingLine)
    tasks = distribution.sample(12, "validation")
    found = env.oracle_style(tasks)
    best = score(distribution, tasks, oracle=True)[0].mean()

    again = env.oracle_style({name: value[[7, 7, 3]] for name, value in tasks.items()})
    for one, other in zip(again, found, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other)[[7, 7, 3]])

    class OneForAll(RacingLine):
        def oracle_style(self, params: Task) -> Style:
            """The same on every task."""
            return RACING_STYLES[2]

    alone = TaskDistribution(OneForAll(), distribution.train)
    assert best > score(alone, tasks, oracle=True)[0].mean() + 5


def test_less_friction_and_more_mass_make_the_race_slower() -> None:
    distribution = racing_line()
    nominal = {name: value.expand(1) for name, value in distribution.default_task().items()}
    slippery, heavy = (
        {**nominal, **changed} for changed in ({"friction": torch.tensor([0.35])}, {"mass": torch.tensor([2500.0])})
    )
    fastest = float(score(distribution, nominal, oracle=True)[0])
    assert float(score(distribution, slippery, oracle=True)[0]) < 0.9 * fastest
    assert float(score(distribution, heavy, oracle=True)[0]) < 0.98 * fastest


def test_the_observation_does_not_hold_the_target_speed() -> None:
    distribution = lane_keeping()
    tasks = distribution.sample(5, "test")
    elsewhere = {**tasks, "target_speed": tasks["target_speed"].flip(0)}
    actions = torch.randn(20, 5, 2, 2, generator=rng())
    before, after = play(distribution, tasks, actions), play(distribution, elsewhere, actions)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@both
def test_pictures_of_trajectories_hold_the_way_that_the_car_has_gone(make: Callable[[], TaskDistribution]) -> None:
    """The distance comes from observations alone, added up: a first-order integration on either side."""
    distribution = make()
    env, tasks = distribution.task_env, distribution.sample(8, "test")
    state, generator = env.initial(rng(), tasks), rng(1)
    seen, distance, offset = [env.observation(state, generator, tasks)], [state["distance"]], [state["lateral_error"]]
    for _ in range(20):
        action = 0.3 * torch.rand((8, 2), generator=generator)
        state, obs, _, _ = env.step(state, action, generator, tasks)
        seen.append(obs)
        distance.append(state["distance"])
        offset.append(state["lateral_error"])
    path = env.plane_path(torch.stack(seen, dim=1))
    assert path is not None
    torch.testing.assert_close(path[..., 0], torch.stack(distance, dim=1), rtol=2e-3, atol=0.02)
    within = torch.stack(offset, dim=1).abs() < 10 * seen[0].new_tensor(distribution.env.half_width)  # type: ignore[attr-defined]
    torch.testing.assert_close(path[..., 1][within], torch.stack(offset, dim=1)[within], rtol=1e-5, atol=1e-5)
    (left, right) = env.plane_lines({name: value[0] for name, value in tasks.items()})
    assert right[0][1] - left[0][1] == 2 * distribution.env.half_width  # type: ignore[attr-defined]
    assert left[-1][0] > float(path[..., 0].max())
