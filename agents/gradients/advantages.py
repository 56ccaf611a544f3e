"""Returns, advantages and the linear feature baseline, batched over tasks and computed once per batch."""

import torch
from torch import Tensor

from metarl.agents.gradients.parallel import task_slices
from metarl.envs.rollout import Episodes

RIDGE = 1e-5
"""Weight of ‖w‖² in the baseline's fit."""

MAX_FEATURE = 10.0
"""Observations are clipped to ± this before they become features."""

CPU_CHUNK_STEPS = 40_000
"""Environment steps whose features are held at once on a CPU: fewer took longer, more took no less."""


def discounted_sums(values: Tensor, discount: float) -> Tensor:
    """S_t = Σ_{k≥0} discount^k · x_{t+k} for (…, H), as one product with the H × H matrix of discounts."""
    time = torch.arange(values.shape[-1], device=values.device)
    exponent = time.unsqueeze(1) - time.unsqueeze(0)  # row: where the value falls; column: where it counts
    powers = torch.pow(torch.tensor(discount, device=values.device, dtype=values.dtype), exponent.clamp(min=0))
    return values @ torch.where(exponent >= 0, powers, 0.0)


def baseline_features(obs: Tensor) -> Tensor:
    """[o, o², t, t², t³, 1] with o clipped to ±10 and t = step/100: (M, E, H, O) -> (M, E, H, 2·O + 4)."""
    clipped = obs.clamp(-MAX_FEATURE, MAX_FEATURE)
    time = torch.arange(obs.shape[-2], device=obs.device, dtype=obs.dtype) / 100
    powers = torch.stack([time, time**2, time**3, torch.ones_like(time)], dim=-1)
    return torch.cat([clipped, clipped**2, powers.expand(*obs.shape[:-1], 4)], dim=-1)


def fit_linear_baseline(episodes: Episodes, returns: Tensor) -> Tensor:
    """Values of a linear baseline fitted to this very batch, per task.

    Solves min_w Σ mask · (φ(o_t, t)·w − G_t)² + 1e-5·‖w‖² for each task, all tasks at once, in float64.

    Args:
        episodes: M tasks × E episodes.
        returns: discounted returns G, (M, E, H).

    Returns:
        V(o_t), (M, E, H), zero where masked.

    Source: Duan et al. 2016, "Benchmarking Deep Reinforcement Learning for Continuous Control", supplement.
    """
    mask = episodes.mask
    features = baseline_features(episodes.obs) * mask.unsqueeze(-1)
    flat = features.flatten(1, 2).double()  # (M, E·H, F)

    # The normal equations: (Φᵀ Φ + ridge · I) w = Φᵀ G.
    gram = flat.mT @ flat
    gram = gram + RIDGE * torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    target = flat.mT @ (returns * mask).flatten(1, 2).double().unsqueeze(-1)
    weights = torch.linalg.solve_ex(gram, target).result  # solve would make the CPU wait for errors of the GPU

    values: Tensor = (flat @ weights).reshape(mask.shape).to(returns.dtype)
    return values


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


def normalize(advantages: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit standard deviation within each task, over the steps really taken: (M, E, H)."""
    count = mask.sum(dim=(1, 2), keepdim=True)
    mean = (advantages * mask).sum(dim=(1, 2), keepdim=True) / count
    centred = (advantages - mean) * mask
    std = (centred.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    return centred / (std + 1e-8)  # a task whose advantages are all equal has none


def advantages_of(episodes: Episodes, gamma: float, gae_lambda: float, normalized: bool = True) -> Tensor:
    """Advantages of a batch with the linear baseline fitted to it, normalised per task: (M, E, H).

    Some tasks at a time: a baseline's features are many times the numbers of the advantages.
    """

    def advantages_of_chunk(chunk: Episodes) -> Tensor:
        returns = discounted_sums(chunk.reward, gamma)
        values = fit_linear_baseline(chunk, returns)
        advantages = generalized_advantages(chunk, values, gamma, gae_lambda)
        return normalize(advantages, chunk.mask) if normalized else advantages

    chunks = task_slices(episodes.obs, 0, cpu_steps=CPU_CHUNK_STEPS)
    return torch.cat([advantages_of_chunk(episodes.tasks(tasks)) for tasks in chunks])
