"""The Newton solver in one kernel, on the CPU, beside the conditions that a minimum has to meet."""

import contextlib
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

wp = pytest.importorskip("warp")
library = pytest.importorskip("mujoco_warp")

from mujoco_warp._src import forward as steps  # noqa: E402
from mujoco_warp._src import solver  # noqa: E402

from metarl.envs.physics import newton  # noqa: E402
from metarl.envs.registry import make_distribution  # noqa: E402

NUM_VELOCITIES = 5
MAX_ROWS = 8
NUM_ROWS = (0, 3, 8)
"""Of each world."""

TIME_STEP = 0.1


def array(values: Any, dtype: type = float) -> Any:
    """An array of Warp on the CPU."""
    return wp.array(np.ascontiguousarray(values), dtype=dtype, device="cpu")


def worlds() -> tuple[Any, Any, dict[str, Any]]:
    """Model and data of random worlds as far as the solver reads them, and their numbers in float64."""
    random = np.random.default_rng(0)
    num_worlds = len(NUM_ROWS)
    root = random.normal(size=(num_worlds, NUM_VELOCITIES, NUM_VELOCITIES))
    numbers = {
        "inertia": root @ root.transpose(0, 2, 1) + np.eye(NUM_VELOCITIES),
        "jacobian": random.normal(size=(num_worlds, MAX_ROWS, NUM_VELOCITIES)),
        "stiffness": random.uniform(1, 100, (num_worlds, MAX_ROWS)),
        "target": random.normal(size=(num_worlds, MAX_ROWS)),
        "force": 10 * random.normal(size=(num_worlds, NUM_VELOCITIES)),
        "damping": random.uniform(0, 5, (1, NUM_VELOCITIES)),
        "velocity": random.normal(size=(num_worlds, NUM_VELOCITIES)),
        "position": random.normal(size=(num_worlds, NUM_VELOCITIES)),
    }
    columns = np.tile(np.arange(NUM_VELOCITIES), NUM_VELOCITIES)
    model = SimpleNamespace(
        nv=NUM_VELOCITIES,
        opt=SimpleNamespace(iterations=50, ls_iterations=50, tolerance=array([1e-6]), timestep=array([TIME_STEP])),
        M_mulm_rowadr=array(np.arange(NUM_VELOCITIES + 1) * NUM_VELOCITIES, int),
        M_mulm_col=array(columns, int),
        M_mulm_madr=array(np.arange(NUM_VELOCITIES**2), int),
        dof_damping=array(numbers["damping"]),
    )
    zeros = np.zeros((num_worlds, NUM_VELOCITIES))
    data = SimpleNamespace(
        nworld=num_worlds,
        njmax=MAX_ROWS,
        nefc=array(NUM_ROWS, int),
        M=array(numbers["inertia"].reshape(num_worlds, -1)),
        efc=SimpleNamespace(
            J=array(numbers["jacobian"]),
            D=array(numbers["stiffness"]),
            aref=array(numbers["target"]),
            Ma=array(zeros),
            force=array(np.zeros((num_worlds, MAX_ROWS))),
        ),
        qacc_warmstart=array(zeros),
        qfrc_smooth=array(numbers["force"]),
        qacc=array(zeros),
        qfrc_constraint=array(zeros),
        solver_niter=array(np.zeros(num_worlds), int),
        qvel=array(numbers["velocity"]),
        qpos=array(numbers["position"]),
    )
    return model, data, numbers


def test_accelerations_balance_all_forces_and_rows_only_push() -> None:
    """The gradient of the problem is zero, and Euler's step follows its formula."""
    model, data, numbers = worlds()
    newton.solve(model, data, euler=True)

    for world, rows in enumerate(NUM_ROWS):
        inertia, jacobian = numbers["inertia"][world], numbers["jacobian"][world, :rows]
        acceleration = data.qacc.numpy()[world].astype(float)
        short = np.minimum(jacobian @ acceleration - numbers["target"][world, :rows], 0)
        pushes = -numbers["stiffness"][world, :rows] * short
        balance = inertia @ acceleration - numbers["force"][world] - jacobian.T @ pushes
        np.testing.assert_allclose(balance, 0, atol=2e-3)
        np.testing.assert_allclose(data.efc.force.numpy()[world, :rows], pushes, atol=2e-3)
        np.testing.assert_allclose(data.qfrc_constraint.numpy()[world], jacobian.T @ pushes, atol=5e-3)
        assert rows == 0 or 0 < (pushes > 0).sum() < rows  # some push, some do not

        implicit = inertia + TIME_STEP * np.diag(numbers["damping"][0])
        velocity = numbers["velocity"][world] + TIME_STEP * np.linalg.solve(implicit, inertia @ acceleration)
        np.testing.assert_allclose(data.qvel.numpy()[world], velocity, atol=1e-4)
        np.testing.assert_allclose(
            data.qpos.numpy()[world], numbers["position"][world] + TIME_STEP * velocity, atol=1e-4
        )
        np.testing.assert_array_equal(data.qacc_warmstart.numpy()[world], data.qacc.numpy()[world])

    iterations = data.solver_niter.numpy()
    assert iterations[0] == 1  # nothing but a linear system
    assert iterations.max() < 10


def test_the_order_of_rows_changes_no_bit() -> None:
    """Contacts are found in any order on a GPU."""
    model, data, numbers = worlds()
    newton.solve(model, data, euler=True)
    order = np.random.default_rng(1).permutation(MAX_ROWS)
    _, other, _ = worlds()
    full = NUM_ROWS.index(MAX_ROWS)
    for name, field in (("jacobian", "J"), ("stiffness", "D"), ("target", "aref")):
        numbers[name][full] = numbers[name][full][order]
        setattr(other.efc, field, array(numbers[name]))
    newton.solve(model, other, euler=True)

    for field in ("qacc", "qvel", "qpos", "qfrc_constraint", "solver_niter"):
        np.testing.assert_array_equal(getattr(other, field).numpy(), getattr(data, field).numpy())
    np.testing.assert_array_equal(other.efc.force.numpy()[full], data.efc.force.numpy()[full][order])


def test_the_library_solves_as_before_after_an_error() -> None:
    before = solver.solve, steps.euler, steps._forward
    env: Any = make_distribution("half-cheetah-direction").env
    with pytest.raises(RuntimeError, match="broken"), newton.QuickSteps(env.model, "cpu")(is_step=True):
        assert not {solver.solve, steps.euler, steps._forward} & set(before)
        raise RuntimeError("broken")
    assert (solver.solve, steps.euler, steps._forward) == before


class Streams:
    """A GPU's streams as far as the order of work on them goes.

    Attributes:
        current: the stream on which work is launched now.
        before: of each work, what is done for sure before it begins.
    """

    def __init__(self) -> None:
        self.before: dict[str, set[str]] = {}
        self.current = Stream()

    @contextlib.contextmanager
    def ScopedStream(self, stream: "Stream") -> Iterator[None]:  # noqa: N802
        """See warp: the stream waits for the one before at first, which does not wait for it at the end."""
        stream.wait_stream(self.current)
        outer, self.current = self.current, stream
        yield
        self.current = outer

    def get_stream(self, device: str) -> "Stream":
        """See warp."""
        return self.current

    def work(self, name: str) -> Any:
        """What notes that some work is launched."""

        def launch(*arguments: Any) -> None:
            self.before[name] = set(self.current.done)
            self.current.done.add(name)

        return launch


class Stream:
    """What is done on a stream before anything else on it begins."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    def wait_stream(self, other: "Stream") -> None:
        """See warp."""
        self.done |= other.done


def test_branches_begin_after_what_they_need_and_end_before_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contacts and inertia run beside the forces: only the order in which streams wait keeps their numbers right."""
    assert inspect.signature(wp.ScopedStream.__init__).parameters["sync_enter"].default is True  # so is the stand-in
    streams = Streams()
    positions = ("kinematics", "com_pos", "tendon")
    branches = {"contacts": ("collision", "make_constraint"), "inertia": ("crb",)}
    forces = ("transmission", "fwd_velocity", "fwd_actuation", "fwd_acceleration")
    for name in (*positions, *sum(branches.values(), ()), *forces):
        monkeypatch.setattr(library, name, streams.work(name))
    monkeypatch.setattr(newton, "solve", streams.work("solve"))
    monkeypatch.setattr(wp, "ScopedStream", streams.ScopedStream)
    monkeypatch.setattr(wp, "get_stream", streams.get_stream)

    env: Any = make_distribution("half-cheetah-direction").env
    quick: Any = newton.QuickSteps(env.model, "cpu")
    quick._streams = [Stream(), Stream()]
    with quick(is_step=True):
        steps._forward(None, None, skip_sensor=True)

    before = streams.before
    sides = {**branches, "forces": forces}
    for side, works in sides.items():
        beside = {work for other, others in sides.items() if other != side for work in others}
        for work in works:
            assert before[work] >= set(positions)
            assert not before[work] & beside
    assert before["solve"] >= {*positions, *branches["contacts"], *branches["inertia"], *forces}


def test_what_the_kernel_does_not_solve_is_left_to_the_library() -> None:
    cheetah: Any = make_distribution("half-cheetah-direction").env
    hopper: Any = make_distribution("hopper-dynamics").env
    assert newton.supports(cheetah.model, 64)
    assert newton.supports_euler(cheetah.model)
    assert newton.supports(hopper.model, 64)
    assert not newton.supports_euler(hopper.model)  # Runge and Kutta's

    assert not newton.supports(cheetah.model, newton.MAX_ROWS + 1)
    cheetah.model.dof_frictionloss[0] = 1
    assert not newton.supports(cheetah.model, 64)
    hopper.model.opt.cone = 1
    assert not newton.supports(hopper.model, 64)
