"""MuJoCo's Newton solver for small robots as one kernel: a warp of the GPU's threads solves one world to the end.

Imports MuJoCo Warp, which is an extra.
"""

import contextlib
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import mujoco
import mujoco_warp
import numpy as np
import warp as wp
from mujoco_warp._src import forward as library_steps
from mujoco_warp._src import solver as library_solver

LANES = 32
"""Threads that solve a world together on a GPU: they go in step without a barrier of the whole block."""

MAX_VELOCITIES = 32
MAX_ROWS = 128
"""The largest robot whose numbers fit into the shared memory of a block."""

# Accelerations x that minimise 1/2 (x - x0)' M (x - x0) + sum of 1/2 D min(0, J x - aref)^2, M x0 = forces: limits and
# contacts push, and never pull. Written in C++, because its threads talk to each other in shared memory; on the CPU
# one thread plays all lanes. @NAMES stand for constants.
_SOLVE = """
#if defined(__CUDA_ARCH__)
    const int lanes = @LANES;
    #define SHARED __shared__
    #define MEET() __syncwarp()
    auto total = [](float value) {
        for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
        return value;
    };
    auto any = [](bool value) { return __any_sync(0xffffffffu, value) != 0; };
#else
    const int lanes = 1;
    #define SHARED
    #define MEET()
    auto total = [](float value) { return value; };
    auto any = [](bool value) { return value; };
#endif
    SHARED float M[@NV * @WIDE];
    SHARED float H[@NV * @WIDE];
    SHARED float J[@ROWS * @WIDE];
    SHARED float distance[@ROWS];
    SHARED float stiffness[@ROWS];
    SHARED float pushing[@ROWS];  // its stiffness where a row pushes, else 0
    SHARED float force[@ROWS];
    SHARED float row_search[@ROWS];
    SHARED unsigned long long key[@ROWS];
    SHARED int place[@ROWS];
    SHARED float x[@NV];
    SHARED float Mx[@NV];
    SHARED float smooth[@NV];
    SHARED float gradient[@NV];
    SHARED float search[@NV];
    SHARED float M_search[@NV];

    // v becomes H^-1 v, by Gauss and Jordan's elimination, each lane in its own rows; H is lost.
    auto solve_H = [&](float* v) {
        for (int k = 0; k < @NV; ++k) {
            const float inverse = 1.0f / H[k * @WIDE + k];
            for (int i = lane; i < @NV; i += lanes) {
                if (i == k) continue;
                const float factor = H[i * @WIDE + k] * inverse;
                for (int j = k + 1; j < @NV; ++j) H[i * @WIDE + j] -= factor * H[k * @WIDE + j];
                v[i] -= factor * v[k];
            }
            MEET();
        }
        for (int i = lane; i < @NV; i += lanes) v[i] /= H[i * @WIDE + i];
        MEET();
    };

    const int rows = wp::min(*wp::address(problem.num_rows, world), @ROWS);
    const float* world_M = wp::address(problem.inertia, world, 0);
    const float* world_J = wp::address(problem.jacobian, world, 0, 0);
    const int J_stride = problem.jacobian.strides[1] / (int)sizeof(float);

    // What the world is.
    for (int i = lane; i < @NV * @WIDE; i += lanes) M[i] = 0.0f;
    MEET();
    for (int i = lane; i < @NV; i += lanes) {
        const int end = *wp::address(problem.inertia_rows, i + 1);
        for (int k = *wp::address(problem.inertia_rows, i); k < end; ++k) {
            M[i * @WIDE + *wp::address(problem.inertia_columns, k)] = world_M[*wp::address(problem.inertia_places, k)];
        }
        x[i] = *wp::address(problem.start, world, i);
        smooth[i] = *wp::address(problem.smooth_force, world, i);
    }

    // The library finds contacts in any order. Rows are taken in that of a hash of their numbers, so that sums over
    // them have the same bits each time.
    const float* world_stiffness = wp::address(problem.row_stiffness, world, 0);
    const float* world_target = wp::address(problem.target, world, 0);
    for (int r = lane; r < rows; r += lanes) {
        unsigned long long hash = 1469598103934665603ull;
        auto mix = [&](const float* value) {
            hash = (hash ^ *reinterpret_cast<const unsigned int*>(value)) * 1099511628211ull;
        };
        mix(world_stiffness + r);
        mix(world_target + r);
        for (int j = 0; j < @NV; ++j) mix(world_J + r * J_stride + j);
        key[r] = hash;
    }
    MEET();
    for (int r = lane; r < rows; r += lanes) {
        int smaller = 0;
        for (int s = 0; s < rows; ++s) smaller += key[s] < key[r] || (key[s] == key[r] && s < r);
        place[r] = smaller;
        stiffness[smaller] = world_stiffness[r];
        distance[smaller] = -world_target[r];
        for (int j = 0; j < @NV; ++j) J[smaller * @WIDE + j] = world_J[r * J_stride + j];
    }
    MEET();

    // Where it starts.
    float trace = 0.0f;
    for (int i = lane; i < @NV; i += lanes) {
        float sum = 0.0f;
        for (int j = 0; j < @NV; ++j) sum += M[i * @WIDE + j] * x[j];
        Mx[i] = sum;
        trace += M[i * @WIDE + i];
    }
    const float scale = 1.0f / wp::max(total(trace), 1e-15f);
    for (int r = lane; r < rows; r += lanes) {
        float sum = distance[r];
        for (int j = 0; j < @NV; ++j) sum += J[r * @WIDE + j] * x[j];
        distance[r] = sum;
        pushing[r] = sum < 0.0f ? stiffness[r] : 0.0f;
        force[r] = -pushing[r] * sum;
    }
    MEET();

    const float tolerance = *wp::address(problem.tolerance, 0);
    int iteration = 0;
    while (iteration < problem.max_iterations) {
        ++iteration;

        // Gradient and Hessian of the rows that push.
        float square = 0.0f;
        for (int i = lane; i < @NV; i += lanes) {
            float sum = Mx[i] - smooth[i];
            for (int r = 0; r < rows; ++r) sum -= J[r * @WIDE + i] * force[r];
            gradient[i] = sum;
            search[i] = -sum;
            square += sum * sum;
        }
        for (int i = lane; i < @NV; i += lanes) {
            float sum[@NV];
            #pragma unroll
            for (int j = 0; j < @NV; ++j) sum[j] = M[i * @WIDE + j];
            for (int r = 0; r < rows; ++r) {
                const float weight = pushing[r] * J[r * @WIDE + i];
                #pragma unroll
                for (int j = 0; j < @NV; ++j) sum[j] += weight * J[r * @WIDE + j];
            }
            #pragma unroll
            for (int j = 0; j < @NV; ++j) H[i * @WIDE + j] = sum[j];
        }
        MEET();
        solve_H(search);

        // Along it the slope is piecewise linear: Newton's method between bounds finds where it is zero.
        float decrement = 0.0f;
        float smooth_slope = 0.0f;
        float smooth_curvature = 0.0f;
        for (int i = lane; i < @NV; i += lanes) {
            float sum = 0.0f;
            for (int j = 0; j < @NV; ++j) sum += M[i * @WIDE + j] * search[j];
            M_search[i] = sum;
            decrement -= gradient[i] * search[i];
            smooth_slope += search[i] * (Mx[i] - smooth[i]);
            smooth_curvature += search[i] * sum;
        }
        for (int r = lane; r < rows; r += lanes) {
            float sum = 0.0f;
            for (int j = 0; j < @NV; ++j) sum += J[r * @WIDE + j] * search[j];
            row_search[r] = sum;
        }
        square = total(square);
        decrement = total(decrement);
        smooth_slope = total(smooth_slope);
        smooth_curvature = total(smooth_curvature);
        MEET();

        float step = 1.0f;
        float low = 0.0f;
        float high = -1.0f;  // none yet
        bool exact = true;  // whether no row changes sides on the way
        for (int r = lane; r < rows; r += lanes) {
            if ((distance[r] < 0.0f) != (distance[r] + row_search[r] < 0.0f)) exact = false;
        }
        exact = !any(!exact);
        for (int trial = 0; trial < problem.max_trials && !exact; ++trial) {
            float slope = 0.0f;
            float curvature = 0.0f;
            for (int r = lane; r < rows; r += lanes) {
                const float there = distance[r] + step * row_search[r];
                if (there < 0.0f) {
                    slope += stiffness[r] * row_search[r] * there;
                    curvature += stiffness[r] * row_search[r] * row_search[r];
                }
            }
            slope = smooth_slope + step * smooth_curvature + total(slope);
            curvature = smooth_curvature + total(curvature);
            if (fabsf(slope) <= 1e-5f * decrement || curvature <= 0.0f) break;

            if (slope < 0.0f) low = step;
            else high = step;
            float next = step - slope / curvature;
            const bool inside = next > low && (high < 0.0f || next < high);
            if (!inside) next = high < 0.0f ? 2.0f * step : 0.5f * (low + high);

            // Where no row changes sides between the two, Newton's step has found the place.
            exact = inside;
            for (int r = lane; r < rows; r += lanes) {
                const bool before = distance[r] + step * row_search[r] < 0.0f;
                if (before != (distance[r] + next * row_search[r] < 0.0f)) exact = false;
            }
            exact = !any(!exact);
            step = next;
        }

        // Go there.
        bool changes = false;
        for (int i = lane; i < @NV; i += lanes) {
            x[i] += step * search[i];
            Mx[i] += step * M_search[i];
        }
        for (int r = lane; r < rows; r += lanes) {
            const float after = distance[r] + step * row_search[r];
            if ((after < 0.0f) != (distance[r] < 0.0f)) changes = true;
            distance[r] = after;
            pushing[r] = after < 0.0f ? stiffness[r] : 0.0f;
            force[r] = -pushing[r] * after;
        }
        changes = any(changes);
        MEET();

        // Where no row has changed sides, the step has led to the minimum.
        const bool small = 0.5f * scale * decrement < tolerance || scale * sqrtf(square) < tolerance;
        if (small || !changes) break;
    }

    // What the rest of the physics wants to know.
    for (int i = lane; i < @NV; i += lanes) {
        float sum = 0.0f;
        for (int r = 0; r < rows; ++r) sum += J[r * @WIDE + i] * force[r];
        *wp::address(solution.constraint_force, world, i) = sum;
        *wp::address(solution.acceleration, world, i) = x[i];
        *wp::address(solution.momentum, world, i) = Mx[i];
    }
    for (int r = lane; r < rows; r += lanes) *wp::address(solution.row_force, world, r) = force[place[r]];
    if (lane == 0) {
        *wp::address(solution.num_iterations, world) = iteration;
        if (*wp::address(problem.num_rows, world) > @ROWS) printf("a world has more than @ROWS limits and contacts\\n");
    }

    // A semi-implicit step of Euler's, damping taken at its end: (M + h damping) acceleration = M x.
    if (@EULER) {
        const float h = *wp::address(problem.time_step, 0);
        for (int k = lane; k < @NV * @NV; k += lanes) {
            const int i = k / @NV;
            const int j = k % @NV;
            H[i * @WIDE + j] = M[i * @WIDE + j];
            if (i == j) H[i * @WIDE + j] += h * *wp::address(problem.damping, world % problem.damping.shape[0], i);
        }
        for (int i = lane; i < @NV; i += lanes) search[i] = Mx[i];
        MEET();
        solve_H(search);
        for (int i = lane; i < @NV; i += lanes) {
            const float after = *wp::address(solution.velocity, world, i) + h * search[i];
            *wp::address(solution.velocity, world, i) = after;
            *wp::address(solution.position, world, i) += h * after;
            *wp::address(solution.start, world, i) = x[i];
        }
    }
    #undef SHARED
    #undef MEET
"""


@wp.struct
class Problem:
    """What is to be solved; leading dimension: worlds, but where another one is named.

    Attributes:
        max_iterations: Newton steps at most.
        max_trials: lengths of a step that are tried at most.
        tolerance: what a step has to gain at least, (1,).
        time_step: of the physics, s, (1,).
        inertia_rows: of M, where each row begins in the next two, (nv + 1,).
        inertia_columns: of each entry of M.
        inertia_places: of each entry of M in `inertia`.
        inertia: the entries of M.
        num_rows: limits and contacts.
        jacobian: J, (N, rows, nv).
        row_stiffness: D, (N, rows).
        target: aref, (N, rows).
        start: where x begins, (N, nv).
        smooth_force: M x0, (N, nv).
        damping: of each joint, (N or 1, nv).
    """

    max_iterations: int
    max_trials: int
    tolerance: wp.array[float]
    time_step: wp.array[float]
    inertia_rows: wp.array[int]
    inertia_columns: wp.array[int]
    inertia_places: wp.array[int]
    inertia: wp.array2d[float]
    num_rows: wp.array[int]
    jacobian: wp.array3d[float]
    row_stiffness: wp.array2d[float]
    target: wp.array2d[float]
    start: wp.array2d[float]
    smooth_force: wp.array2d[float]
    damping: wp.array2d[float]


@wp.struct
class Solution:
    """What the rest of the physics wants to know.

    Attributes:
        acceleration: x, (N, nv).
        constraint_force: J' f, (N, nv).
        momentum: M x, (N, nv).
        row_force: f, (N, rows).
        num_iterations: that each world took, (N,).
        start: where the next solution begins, (N, nv).
        velocity: (N, nv).
        position: (N, nv).
    """

    acceleration: wp.array2d[float]
    constraint_force: wp.array2d[float]
    momentum: wp.array2d[float]
    row_force: wp.array2d[float]
    num_iterations: wp.array[int]
    start: wp.array2d[float]
    velocity: wp.array2d[float]
    position: wp.array2d[float]


def supports(model: Any, max_rows: int) -> bool:
    """Whether the kernel solves all there is to a robot: limits, and contacts with pyramids of friction.

    Args:
        model: the robot's MjModel.
        max_rows: limits and contacts of a world at most.
    """
    only_pushes = model.neq == 0 and not model.dof_frictionloss.any() and not model.tendon_frictionloss.any()
    small = 0 < model.nv <= MAX_VELOCITIES and 0 < max_rows <= MAX_ROWS
    return bool(
        only_pushes
        and small
        and model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
        and model.opt.jacobian != mujoco.mjtJacobian.mjJAC_SPARSE
        and model.opt.noslip_iterations == 0
        and model.opt.iterations > 0
        and model.nflex == 0
        and not model.opt.enableflags & (mujoco.mjtEnableBit.mjENBL_SLEEP | mujoco.mjtEnableBit.mjENBL_ENERGY)
    )


def supports_euler(model: Any) -> bool:
    """Whether the kernel can take the step of Euler's method as well: joints of one degree, damped linearly."""
    one_degree = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    disabled = mujoco.mjtDisableBit.mjDSBL_EULERDAMP | mujoco.mjtDisableBit.mjDSBL_DAMPER
    not_linear = (model.dof_dampingpoly, model.actuator_damping, model.actuator_dampingpoly)
    return bool(
        model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
        and model.na == 0
        and np.isin(model.jnt_type, one_degree).all()
        and not model.opt.disableflags & disabled
        and not any(values.any() for values in not_linear)
    )


class QuickSteps:
    """Has MuJoCo Warp take steps with the kernel, and with fewer launches one after the other.

    A forward pass finds contacts, inertia and forces in three branches of a CUDA graph, as none needs another.

    Args:
        model: the robot's MjModel, which the kernel supports.
        device: of the worlds.
        branches: whether to compute side by side what can be; not tried with the library's sums in a fixed order.
    """

    def __init__(self, model: Any, device: str, branches: bool = True) -> None:
        self._euler = supports_euler(model)
        self._branches = branches and not model.tendon_armature.any()
        self._device = device
        self._streams = [wp.Stream(device) for _ in range(2)] if wp.get_device(device).is_cuda else []

    @contextlib.contextmanager
    def __call__(self, is_step: bool) -> Iterator[None]:
        """What MuJoCo Warp computes in here it computes so.

        Args:
            is_step: whether that is steps, of which nobody reads sensors, or only a forward pass.
        """
        before = library_solver.solve, library_steps.euler, library_steps._forward
        euler = is_step and self._euler
        library_solver.solve = functools.partial(solve, euler=euler)
        if euler:
            library_steps.euler = lambda model, data: None
        if is_step and self._branches:
            library_steps._forward = functools.partial(self._forward, euler)
        try:
            yield
        finally:
            library_solver.solve, library_steps.euler, library_steps._forward = before

    def _forward(self, euler: bool, model: Any, data: Any, skip_sensor: bool = False) -> None:
        """A forward pass without sensors; its arguments are those of the library's."""
        mujoco_warp.kinematics(model, data)
        mujoco_warp.com_pos(model, data)
        mujoco_warp.tendon(model, data)

        with self._beside(0):
            mujoco_warp.collision(model, data)
            mujoco_warp.make_constraint(model, data)
        with self._beside(1):
            mujoco_warp.crb(model, data)
        mujoco_warp.transmission(model, data)
        mujoco_warp.fwd_velocity(model, data)
        mujoco_warp.fwd_actuation(model, data)
        mujoco_warp.fwd_acceleration(model, data)

        for stream in self._streams:
            wp.get_stream(self._device).wait_stream(stream)
        solve(model, data, euler)

    def _beside(self, branch: int) -> AbstractContextManager[Any]:
        """What is launched in here runs beside what is launched after it."""
        return wp.ScopedStream(self._streams[branch]) if self._streams else contextlib.nullcontext()


def solve(model: Any, data: Any, euler: bool = False) -> None:
    """Find the accelerations under limits and contacts, as mujoco_warp.solve does.

    Args:
        model: of MuJoCo Warp.
        data: of MuJoCo Warp.
        euler: whether to go on to the next positions and velocities.
    """
    problem = Problem()
    problem.max_iterations = model.opt.iterations
    problem.max_trials = model.opt.ls_iterations
    problem.tolerance = model.opt.tolerance
    problem.time_step = model.opt.timestep
    problem.inertia_rows = model.M_mulm_rowadr
    problem.inertia_columns = model.M_mulm_col
    problem.inertia_places = model.M_mulm_madr
    problem.inertia = data.M
    problem.num_rows = data.nefc
    problem.jacobian = data.efc.J
    problem.row_stiffness = data.efc.D
    problem.target = data.efc.aref
    problem.start = data.qacc_warmstart
    problem.smooth_force = data.qfrc_smooth
    problem.damping = model.dof_damping

    solution = Solution()
    solution.acceleration = data.qacc
    solution.constraint_force = data.qfrc_constraint
    solution.momentum = data.efc.Ma
    solution.row_force = data.efc.force
    solution.num_iterations = data.solver_niter
    solution.start = data.qacc_warmstart
    solution.velocity = data.qvel
    solution.position = data.qpos

    lanes = LANES if data.qacc.device.is_cuda else 1
    kernel = _kernel(model.nv, data.njmax, euler)
    wp.launch(kernel, dim=(data.nworld, lanes), inputs=[problem], outputs=[solution], block_dim=LANES)


@functools.cache
def _kernel(num_velocities: int, max_rows: int, euler: bool) -> Any:
    """The solver's kernel for a size of robot."""
    constants = {
        "@LANES": LANES,
        "@NV": num_velocities,
        "@WIDE": num_velocities | 1,  # an odd distance between rows: lanes read from different banks
        "@ROWS": max_rows,
        "@EULER": int(euler),
    }
    code = _SOLVE
    for name, value in constants.items():
        code = code.replace(name, str(value))

    @wp.func_native(code)  # type: ignore[untyped-decorator]
    def solve_world(world: int, lane: int, problem: Problem, solution: Solution): ...  # type: ignore[no-untyped-def]

    @wp.kernel(module="unique", enable_backward=False)  # type: ignore[untyped-decorator]
    def newton(problem: Problem, solution: Solution):  # type: ignore[no-untyped-def]
        world, lane = wp.tid()
        solve_world(world, lane, problem, solution)

    return newton
