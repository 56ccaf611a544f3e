"""MuJoCo's Newton solver for small robots as one kernel: a warp of the GPU's threads solves one world to the end."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import warp as wp
from mujoco_warp._src import forward as library_forward
from mujoco_warp._src import solver as library_solver

LANES = 32
"""Threads that solve a world together on a GPU: they wait for each other without a barrier of their own."""

MAX_VELOCITIES = 32
MAX_ROWS = 128
"""The largest robot whose numbers fit next to each other into a multiprocessor's shared memory."""

# Accelerations x that minimise 1/2 (x - x0)' M (x - x0) + sum of 1/2 D min(0, J x - aref)^2, M x0 = forces: limits and
# contacts push, and never pull. Written in C++, because its threads talk to each other in shared memory; on the CPU
# one thread plays all lanes.
_SOLVE = """
#if defined(__CUDA_ARCH__)
    const int lanes = @LANES;
    #define SHARED __shared__
    #define MEET() __syncwarp()
    auto total = [](float value) {
        for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
        return value;
    };
#else
    const int lanes = 1;
    #define SHARED
    #define MEET()
    auto total = [](float value) { return value; };
#endif
    SHARED float M[@NV * @WIDE];
    SHARED float H[@NV * @WIDE];
    SHARED float J[@ROWS * @WIDE];
    SHARED float distance[@ROWS];
    SHARED float stiffness[@ROWS];
    SHARED float force[@ROWS];
    SHARED float row_search[@ROWS];
    SHARED float x[@NV];
    SHARED float Mx[@NV];
    SHARED float smooth[@NV];
    SHARED float gradient[@NV];
    SHARED float search[@NV];
    SHARED float M_search[@NV];

    // v becomes H^-1 v; H becomes its Cholesky factor in the lower triangle, the diagonal as reciprocals.
    auto solve_H = [&](float* v) {
        for (int k = 0; k < @NV; ++k) {
            const float pivot = 1.0f / sqrtf(wp::max(H[k * @WIDE + k], 1e-15f));
            MEET();
            for (int i = k + lane; i < @NV; i += lanes) {
                H[i * @WIDE + k] = i == k ? pivot : H[i * @WIDE + k] * pivot;
            }
            MEET();
            for (int i = k + 1 + lane; i < @NV; i += lanes) {
                const float factor = H[i * @WIDE + k];
                for (int j = k + 1; j <= i; ++j) H[i * @WIDE + j] -= factor * H[j * @WIDE + k];
            }
            MEET();
        }
        for (int k = 0; k < @NV; ++k) {
            const float value = v[k] * H[k * @WIDE + k];
            MEET();
            for (int i = k + lane; i < @NV; i += lanes) v[i] = i == k ? value : v[i] - H[i * @WIDE + k] * value;
            MEET();
        }
        for (int k = @NV - 1; k >= 0; --k) {
            const float value = v[k] * H[k * @WIDE + k];
            MEET();
            for (int i = lane; i <= k; i += lanes) v[i] = i == k ? value : v[i] - H[k * @WIDE + i] * value;
            MEET();
        }
    };

    const int rows = wp::min(*wp::address(num_rows, world), @ROWS);
    const float* world_M = wp::address(inertia, world, 0);
    const float* world_J = wp::address(jacobian, world, 0, 0);
    const int J_stride = jacobian.strides[1] / (int)sizeof(float);

    // What the world is.
    for (int i = lane; i < @NV * @WIDE; i += lanes) M[i] = 0.0f;
    MEET();
    for (int i = lane; i < @NV; i += lanes) {
        const int end = *wp::address(M_rows, i + 1);
        for (int k = *wp::address(M_rows, i); k < end; ++k) {
            M[i * @WIDE + *wp::address(M_columns, k)] = world_M[*wp::address(M_places, k)];
        }
        x[i] = *wp::address(start, world, i);
        smooth[i] = *wp::address(smooth_force, world, i);
    }
    for (int i = lane; i < rows * @NV; i += lanes) {
        J[i / @NV * @WIDE + i % @NV] = world_J[i / @NV * J_stride + i % @NV];
    }
    for (int r = lane; r < rows; r += lanes) stiffness[r] = *wp::address(row_stiffness, world, r);
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
        float sum = -*wp::address(target, world, r);
        for (int j = 0; j < @NV; ++j) sum += J[r * @WIDE + j] * x[j];
        distance[r] = sum;
        force[r] = sum < 0.0f ? -stiffness[r] * sum : 0.0f;
    }
    MEET();

    int iteration = 0;
    int calm = 0;  // steps in a row that no row has changed sides in
    while (iteration < max_iterations) {
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
        for (int k = lane; k < @NV * @NV; k += lanes) {
            const int i = k / @NV;
            const int j = k % @NV;
            if (j > i) continue;
            float sum = M[i * @WIDE + j];
            for (int r = 0; r < rows; ++r) {
                if (distance[r] < 0.0f) sum += J[r * @WIDE + i] * stiffness[r] * J[r * @WIDE + j];
            }
            H[i * @WIDE + j] = sum;
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
        for (int trial = 0; trial < max_trials; ++trial) {
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
            if (next <= low || (high > 0.0f && next >= high)) next = high > 0.0f ? 0.5f * (low + high) : 2.0f * step;
            if (next == step) break;
            step = next;
        }

        // Go there.
        float changes = 0.0f;
        for (int i = lane; i < @NV; i += lanes) {
            x[i] += step * search[i];
            Mx[i] += step * M_search[i];
        }
        for (int r = lane; r < rows; r += lanes) {
            const float after = distance[r] + step * row_search[r];
            if ((after < 0.0f) != (distance[r] < 0.0f)) changes += 1.0f;
            distance[r] = after;
            force[r] = after < 0.0f ? -stiffness[r] * after : 0.0f;
        }
        changes = total(changes);
        MEET();

        calm = changes == 0.0f ? calm + 1 : 0;
        const bool small = 0.5f * scale * decrement < tolerance || scale * sqrtf(square) < tolerance;
        if (small || calm == @CALM) break;
    }

    // What the rest of the physics wants to know.
    for (int i = lane; i < @NV; i += lanes) {
        float sum = 0.0f;
        for (int r = 0; r < rows; ++r) sum += J[r * @WIDE + i] * force[r];
        *wp::address(constraint_force, world, i) = sum;
        *wp::address(acceleration, world, i) = x[i];
        *wp::address(momentum, world, i) = Mx[i];
    }
    for (int r = lane; r < rows; r += lanes) *wp::address(row_force, world, r) = force[r];
    if (lane == 0) {
        *wp::address(num_iterations, world) = iteration;
        if (*wp::address(num_rows, world) > @ROWS) printf("a world has more than @ROWS limits and contacts\\n");
    }

    // A semi-implicit step of Euler's, damping taken at its end: (M + h damping) acceleration = M x.
    if (@EULER) {
        const float h = time_step;
        for (int k = lane; k < @NV * @NV; k += lanes) {
            const int i = k / @NV;
            const int j = k % @NV;
            H[i * @WIDE + j] = M[i * @WIDE + j] + (i == j ? h * *wp::address(damping, world % damping.shape[0], i) : 0.0f);
        }
        for (int i = lane; i < @NV; i += lanes) search[i] = Mx[i];
        MEET();
        solve_H(search);
        for (int i = lane; i < @NV; i += lanes) {
            const float after = *wp::address(velocity, world, i) + h * search[i];
            *wp::address(velocity, world, i) = after;
            *wp::address(position, world, i) += h * after;
            *wp::address(start, world, i) = x[i];
        }
    }
    #undef SHARED
    #undef MEET
"""


def supports(model: Any) -> bool:
    """Whether a robot's MjModel has nothing but what the kernel solves: limits, and contacts with friction pyramids."""
    import mujoco

    pyramids = model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    frictionless_joints = not model.dof_frictionloss.any() and not model.tendon_frictionloss.any()
    plain = model.neq == 0 and model.nflex == 0 and model.opt.noslip_iterations == 0
    return bool(pyramids and frictionless_joints and plain and 0 < model.nv <= MAX_VELOCITIES)


def supports_euler(model: Any) -> bool:
    """Whether the kernel can take the step of Euler's method as well: joints of one degree, damped linearly."""
    import mujoco

    one_degree = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    damped = not model.opt.disableflags & (mujoco.mjtDisableBit.mjDSBL_EULERDAMP | mujoco.mjtDisableBit.mjDSBL_DAMPER)
    linear = not model.dof_dampingpoly.any() and not model.actuator_damping.any() and not model.actuator_dampingpoly.any()
    plain = model.na == 0 and model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    return bool(damped and linear and plain and np.isin(model.jnt_type, one_degree).all())


@contextlib.contextmanager
def one_kernel_solver(euler: bool = False) -> Iterator[None]:
    """What MuJoCo Warp computes in here, it solves with `solve`."""
    before = library_solver.solve
    library_solver.solve = functools.partial(solve, euler=euler)
    euler_before = library_forward.euler
    if euler:
        library_forward.euler = lambda model, data: None
    try:
        yield
    finally:
        library_solver.solve = before
        library_forward.euler = euler_before


CALM = 1


def solve(model: Any, data: Any, euler: bool = False) -> None:
    """Find the accelerations under limits and contacts, as mujoco_warp.solve does, which see."""
    lanes = LANES if data.qacc.device.is_cuda else 1
    wp.launch(
        _kernel(model.nv, data.njmax, euler, CALM),
        dim=(data.nworld, lanes),
        inputs=[
            model.opt.iterations,
            model.opt.ls_iterations,
            model.opt.tolerance,
            model.opt.timestep,
            model.M_mulm_rowadr,
            model.M_mulm_col,
            model.M_mulm_madr,
            data.nefc,
            data.M,
            data.efc.J,
            data.efc.D,
            data.efc.aref,
            data.qacc_warmstart,
            data.qfrc_smooth,
        ],
        outputs=[data.qacc, data.qfrc_constraint, data.efc.Ma, data.efc.force, data.solver_niter, model.dof_damping, data.qvel, data.qpos],
        block_dim=LANES,
    )


@functools.cache
def _kernel(num_velocities: int, num_rows: int, euler: bool, calm: int) -> Any:
    """The solver's kernel for a size of robot."""
    code = _SOLVE.replace("@LANES", str(LANES)).replace("@NV", str(num_velocities)).replace("@ROWS", str(num_rows))
    code = code.replace("@EULER", str(int(euler))).replace("@CALM", str(calm))
    code = code.replace("@WIDE", str(num_velocities | 1))  # an odd distance of rows: lanes read from different banks

    @wp.func_native(code)
    def solve_world(
        world: int,
        lane: int,
        max_iterations: int,
        max_trials: int,
        tolerance: float,
        time_step: float,
        M_rows: wp.array(dtype=int),
        M_columns: wp.array(dtype=int),
        M_places: wp.array(dtype=int),
        num_rows: wp.array(dtype=int),
        inertia: wp.array2d(dtype=float),
        jacobian: wp.array3d(dtype=float),
        row_stiffness: wp.array2d(dtype=float),
        target: wp.array2d(dtype=float),
        start: wp.array2d(dtype=float),
        smooth_force: wp.array2d(dtype=float),
        acceleration: wp.array2d(dtype=float),
        constraint_force: wp.array2d(dtype=float),
        momentum: wp.array2d(dtype=float),
        row_force: wp.array2d(dtype=float),
        num_iterations: wp.array(dtype=int),
        damping: wp.array2d(dtype=float),
        velocity: wp.array2d(dtype=float),
        position: wp.array2d(dtype=float),
    ): ...

    @wp.kernel(module="unique", enable_backward=False)
    def newton(
        max_iterations: int,
        max_trials: int,
        tolerance: wp.array(dtype=float),
        time_step: wp.array(dtype=float),
        M_rows: wp.array(dtype=int),
        M_columns: wp.array(dtype=int),
        M_places: wp.array(dtype=int),
        num_rows: wp.array(dtype=int),
        inertia: wp.array2d(dtype=float),
        jacobian: wp.array3d(dtype=float),
        row_stiffness: wp.array2d(dtype=float),
        target: wp.array2d(dtype=float),
        start: wp.array2d(dtype=float),
        smooth_force: wp.array2d(dtype=float),
        acceleration: wp.array2d(dtype=float),
        constraint_force: wp.array2d(dtype=float),
        momentum: wp.array2d(dtype=float),
        row_force: wp.array2d(dtype=float),
        num_iterations: wp.array(dtype=int),
        damping: wp.array2d(dtype=float),
        velocity: wp.array2d(dtype=float),
        position: wp.array2d(dtype=float),
    ):
        world, lane = wp.tid()
        solve_world(
            world,
            lane,
            max_iterations,
            max_trials,
            tolerance[0],
            time_step[0],
            M_rows,
            M_columns,
            M_places,
            num_rows,
            inertia,
            jacobian,
            row_stiffness,
            target,
            start,
            smooth_force,
            acceleration,
            constraint_force,
            momentum,
            row_force,
            num_iterations,
            damping,
            velocity,
            position,
        )

    return newton
