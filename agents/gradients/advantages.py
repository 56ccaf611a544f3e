"""Returns, advantages and the linear feature baseline, batched over tasks and computed once per batch."""

import torch
from torch import Tensor

from metarl.agents.gradients.parallel import task_slices
from metarl.envs.rollout import Episodes

RIDGE = 1e-5
"""Weight of ‖w‖² in the baseline's fit."""

MAX_FEATURE = 10.0
"""Observations are clipped to ± this before they become features."""

BASELINE_CHUNK_STEPS = 40_000
"""Environment steps whose features are held at once on a CPU: fewer took longer, more took no less."""

SUM_BLOCK = 256
"""Steps whose discounted sums are one matrix product; longer episodes go block by block."""

ROUNDING = 1e-6
"""Spread of returns, as a share of the largest that the rewards could add up to, that rounding explains."""


def discounted_sums(values: Tensor, discount: float) -> Tensor:
    """S_t = Σ_{k≥0} discount^k · x_{t+k} for (…, H).

    Within a block of B steps this is one product with the B × B matrix of discounts; what comes after the block counts
    through the first sum of the next one. Memory and time grow with H, not with H².
    """
    horizon = values.shape[-1]
    time = torch.arange(min(horizon, SUM_BLOCK), device=values.device)
    exponent = time.unsqueeze(1) - time.unsqueeze(0)  # row: where the value falls; column: where it counts
    base = torch.full((), discount, device=values.device, dtype=values.dtype)
    matrix = torch.where(exponent >= 0, torch.pow(base, exponent.clamp(min=0)), 0.0)

    blocks: list[Tensor] = []
    for start in reversed(range(0, horizon, SUM_BLOCK)):
        block = values[..., start : start + SUM_BLOCK]
        size = block.shape[-1]
        sums = block @ matrix[:size, :size]
        if blocks:
            steps_left = size - time[:size]
            sums = sums + blocks[-1][..., :1] * torch.pow(base, steps_left)
        blocks.append(sums)
    return torch.cat(blocks[::-1], dim=-1)


def baseline_features(obs: Tensor) -> Tensor:
    """[o, o², t, t², t³] with o clipped to ±10 and t = step/100: (M, E, H, O) -> (M, E, H, 2·O + 3)."""
    clipped = obs.clamp(-MAX_FEATURE, MAX_FEATURE)
    time = torch.arange(obs.shape[-2], device=obs.device, dtype=obs.dtype) / 100
    powers = torch.stack([time, time**2, time**3], dim=-1)
    return torch.cat([clipped, clipped**2, powers.expand(*obs.shape[:-1], 3)], dim=-1)


def steady_returns(episodes: Episodes, gamma: float) -> Tensor:
    """The discounted returns if each step earned the task's mean reward, up to where its longest episode ended.

    A bonus on every step adds to them what it adds to the returns of episodes of that length, so that it changes no
    advantage there. An episode that ends earlier earns the bonus less often, and that stays.

    Returns:
        (M, 1, H), float64.
    """
    mask = episodes.mask.double()
    count = mask.sum(dim=(1, 2), keepdim=True)
    mean_reward = (episodes.reward.double() * mask).sum(dim=(1, 2), keepdim=True) / count
    return mean_reward * _discounted_steps_left(episodes, gamma)


def _discounted_steps_left(episodes: Episodes, gamma: float) -> Tensor:
    """What a reward of 1 on every step of the longest episode would return, (M, 1, H), float64."""
    return discounted_sums(episodes.mask.double().amax(dim=1, keepdim=True), gamma)


def fit_linear_baseline(episodes: Episodes, returns: Tensor) -> Tensor:
    """Least squares of a target by linear features of observation and time, fitted to this very batch, per task.

    Solves min_{w,c} Σ mask · (φ(o_t, t)·w + c − G_t)² + 1e-5·‖w‖² for each task, all tasks at once, in float64. The
    intercept c is not shrunk: features and targets are centred, and it is what that leaves.

    Args:
        episodes: M tasks × E episodes.
        returns: what is fitted, G, (M, E, H).

    Returns:
        V(o_t), (M, E, H), zero where masked, in the dtype of G.

    Source: Duan et al. 2016, "Benchmarking Deep Reinforcement Learning for Continuous Control", supplement. Deviation:
        the field's code (rllab's LinearFeatureBaseline, and those of MAML and ProMP after it) has a feature 1 whose
        weight is shrunk like the others.
    """
    mask = episodes.mask.flatten(1, 2).double().unsqueeze(-1)  # (M, E·H, 1)
    count = mask.sum(dim=1, keepdim=True)
    target = returns.flatten(1, 2).double().unsqueeze(-1) * mask
    features = baseline_features(episodes.obs).flatten(1, 2).double() * mask  # (M, E·H, F)

    # Centred over the steps really taken.
    mean_target = target.sum(dim=1, keepdim=True) / count
    centred = (features - features.sum(dim=1, keepdim=True) / count).mul_(mask)

    values = _ridge_fit(centred, target - mean_target * mask) + mean_target * mask
    fitted: Tensor = values.reshape(episodes.mask.shape).to(returns.dtype)
    return fitted


def _ridge_fit(features: Tensor, target: Tensor) -> Tensor:
    """Φ w of the w that minimises ‖Φ w − y‖² + ridge · ‖w‖², for Φ (M, N, F) and y (M, N, 1).

    Either by (Φᵀ Φ + ridge) w = Φᵀ y or, where there are more features than steps, by w = Φᵀ (Φ Φᵀ + ridge)⁻¹ y: the
    same, from a matrix of the smaller size.
    """
    num_steps, num_features = features.shape[1:]
    wide = num_features > num_steps
    square = features @ features.mT if wide else features.mT @ features
    shrunk = square + RIDGE * torch.eye(square.shape[-1], device=square.device, dtype=square.dtype)

    right = target if wide else features.mT @ target
    solution = _solve(shrunk, right)
    return square @ solution if wide else features @ solution


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """A⁻¹ b of symmetric positive definite A (M, F, F) and b (M, F, 1), without waiting for a GPU's errors."""
    solution: Tensor
    if not matrix.is_cuda:
        solution = torch.linalg.solve_ex(matrix, right).result
        return solution

    # There, LU and torch.cholesky_solve of more than 16 numbers cannot be captured as a CUDA graph.
    lower = torch.linalg.cholesky_ex(matrix).L
    forward = torch.linalg.solve_triangular(lower, right, upper=False)
    solution = torch.linalg.solve_triangular(lower.mT, forward, upper=True)
    return solution


def generalized_advantages(episodes: Episodes, values: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """GAE: A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t, with V = 0 after the last step.

    The value after the horizon counts as 0, as in the original MAML code: the horizon is part of the task, and the
    baseline sees the time.

    Args:
        episodes: M tasks × E episodes.
        values: V(o_t), (M, E, H), zero where masked.
        gamma: discount γ.
        gae_lambda: λ; 1 gives G_t − V_t.

    Returns:
        advantages, (M, E, H), zero where masked.

    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
        equation 16.
    """
    next_values = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    delta = episodes.reward + gamma * next_values - values
    return discounted_sums(delta, gamma * gae_lambda) * episodes.mask


def normalize(advantages: Tensor, mask: Tensor, least_spread: Tensor | float = 0.0) -> Tensor:
    """Zero mean and unit standard deviation within each task, over the steps really taken: (M, E, H).

    Args:
        advantages: (M, E, H), zero where masked.
        mask: (M, E, H).
        least_spread: standard deviation below which a task's advantages are rounding and become 0, (M, 1, 1).
    """
    count = mask.sum(dim=(1, 2), keepdim=True)
    mean = (advantages * mask).sum(dim=(1, 2), keepdim=True) / count
    centred = (advantages - mean) * mask
    std = (centred.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    # So written that what is not a number stays so, and is found.
    return torch.where(std <= least_spread, 0.0, centred / (std + 1e-8))


def rounding_of(episodes: Episodes, gamma: float) -> Tensor:
    """How far returns of a task may lie apart by rounding alone, (M, 1, 1), float64."""
    largest = episodes.reward.abs().amax(dim=(1, 2), keepdim=True).double()
    return ROUNDING * largest * _discounted_steps_left(episodes, gamma)[..., :1]


def same_rewards(returns: Tensor, rounding: Tensor) -> Tensor:
    """Whether the episodes of a task all earned the same at the same times, bool (M, 1, 1); never of one episode.

    The rewards then say nothing of the actions, and what the baseline leaves of the returns is only its misfit.

    Args:
        returns: discounted returns, (M, E, H), zero after the end of an episode.
        rounding: see `rounding_of`.
    """
    apart = (returns.amax(dim=1) - returns.amin(dim=1)).amax(dim=-1)[:, None, None]
    several = returns.shape[1] > 1
    return (apart <= rounding) & several


def advantages_of(episodes: Episodes, gamma: float, gae_lambda: float, normalized: bool = True) -> Tensor:
    """Advantages of a batch with a baseline fitted to it, normalised per task: (M, E, H).

        V(o_t) = S_t + (linear fit of G_t − S_t),    S: `steady_returns`

    A task whose rewards say nothing of the actions, since all episodes earned the same, has advantages of 0. Some tasks
    at a time: a baseline's features are many times the numbers of the advantages.

    Deviation: in the field's code (rllab, MAML, ProMP) S is 0, and whatever the baseline leaves is normalised to
    standard deviation 1, where it is only the misfit of a cubic polynomial in time as well.

    Args:
        episodes: M tasks × E episodes × H steps.
        gamma: discount γ.
        gae_lambda: λ of generalised advantage estimation.
        normalized: whether each task's advantages get mean 0 and standard deviation 1, over its valid steps.
    """

    def advantages_of_chunk(chunk: Episodes) -> Tensor:
        returns = discounted_sums(chunk.reward.double(), gamma)
        steady = steady_returns(chunk, gamma)
        values = (fit_linear_baseline(chunk, returns - steady) + steady) * chunk.mask
        advantages = generalized_advantages(chunk, values, gamma, gae_lambda)

        rounding = rounding_of(chunk, gamma)
        advantages = torch.where(same_rewards(returns, rounding), 0.0, advantages)
        if normalized:
            advantages = normalize(advantages, chunk.mask, rounding)
        return advantages.to(chunk.reward.dtype)

    chunks = task_slices(episodes.obs, 0, cpu_steps=BASELINE_CHUNK_STEPS)
    return torch.cat([advantages_of_chunk(episodes.tasks(tasks)) for tasks in chunks])
