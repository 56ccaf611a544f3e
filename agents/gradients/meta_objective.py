"""MAML's outer objective as a function of the meta-parameters: its value, gradient and Fisher products."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.agents.gradients.adaptation_path import AdaptationPath, Trajectory, as_leaves
from metarl.agents.gradients.forward_pass import Outputs
from metarl.agents.gradients.inner_rates import InnerRates, without_rates
from metarl.agents.gradients.objectives import Batch, Objective, mean_kl
from metarl.agents.gradients.parallel import ChunkPool
from metarl.agents.gradients.processes import num_processes, sum_over_processes
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, check_finite, expand_to_tasks, flatten, unflatten_like


class MetaObjective:
    """J(θ_0, α) = mean over tasks of J_outer(π_0 … π_K), where π_k acts with θ_k of the task's adaptation.

        θ_{k+1} = θ_k + α_k ∇J_inner(θ_k; support_k)

    A list of batches is always the K support batches and the query, M tasks each. Tasks are handled in chunks, and
    all means are over the tasks of all processes.

    Args:
        policy: the policy.
        inner_rates: α.
        inner_objective: J_inner.
        outer_objective: J_outer, policies after 0 … K steps and batches -> (M,).
        second_order: whether derivatives see how an inner step's gradient depends on θ_k.
        pool: handles the chunks of tasks.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        inner_rates: InnerRates,
        inner_objective: Objective,
        outer_objective: Callable[[Sequence[ActionDistribution], Sequence[Batch]], Tensor],
        second_order: bool,
        pool: ChunkPool,
    ) -> None:
        self.policy = policy
        self.inner_rates = inner_rates
        self.inner_objective = inner_objective
        self.outer_objective = outer_objective
        self.second_order = second_order
        self.pool = pool

    # ------------------------------------------------------------------ values

    def policies(self, meta: Parameters, batches: Sequence[Batch]) -> list[ActionDistribution]:
        """What the policies after 0 … K adaptation steps do, each on its own batch."""
        path = self.path(meta, batches, second_order=False)
        return [self.policy.distribution(outputs) for outputs in path.outputs]

    def value_and_kl(self, meta: Parameters, batches: Sequence[Batch]) -> tuple[float, float]:
        """J, and the mean KL from the policies that collected the query to the adapted ones."""
        value, kl = self.pool.run(self._value_and_kl, meta, list(batches)).tolist()
        return value, kl

    def _value_and_kl(self, meta: Parameters, batches: Sequence[Batch]) -> Tensor:
        """Both, (2,)."""

        def sum_of_chunk(tasks: slice) -> Tensor:
            chunk = [batch.tasks(tasks) for batch in batches]
            with torch.no_grad():
                policies = self.policies(meta, chunk)
                kl = mean_kl(self.policy, chunk[-1], policies[-1])
                return torch.stack([self.outer_objective(policies, chunk).sum(), kl.sum()])

        return self.pool.mean(sum_of_chunk, batches[-1].obs)

    # ------------------------------------------------------------------ derivatives

    def value_and_gradient(self, meta: Parameters, batches: Sequence[Batch]) -> tuple[float, Parameters, Trajectory]:
        """J, its gradient by leaf of the meta-parameters, and the trajectory of the adaptation.

        Raises:
            FloatingPointError: the gradient is not finite.
        """
        total, trajectory = self.pool.run(self.differentiate, meta, list(batches))
        value, gradient = float(total[0]), total[1:]
        check_finite(gradient, "the meta-gradient is")
        return value, unflatten_like(gradient, meta), trajectory

    def differentiate(self, meta: Parameters, batches: Sequence[Batch]) -> tuple[Tensor, Trajectory]:
        """J and its flat gradient, (1 + n,), and the trajectory; nothing waits for the device."""
        num_tasks = len(batches[0].obs) * num_processes()

        def differentiate_chunk(tasks: slice) -> tuple[Tensor, Trajectory]:
            chunk = [batch.tasks(tasks) for batch in batches]
            path = self.path(meta, chunk, self.second_order)
            value, cotangents = self._by_outputs(path.outputs, chunk, num_tasks)
            gradient = self.vjp(meta, path, cotangents)
            return torch.cat([value.reshape(1), gradient]), path.trajectory

        chunks = self.pool.map(differentiate_chunk, self.pool.chunks(batches[-1].obs))
        values_and_gradients, trajectories = zip(*chunks, strict=True)

        total = sum_over_processes(torch.stack(values_and_gradients).sum(dim=0))
        return total, Trajectory.concatenate(trajectories)

    def _by_outputs(
        self, path_outputs: Sequence[Outputs], batches: Sequence[Batch], num_tasks: int
    ) -> tuple[Tensor, list[Outputs | None]]:
        """These tasks' share of J, and its gradient by the network's outputs on each batch; None where it has none."""
        outputs = [as_leaves(output) for output in path_outputs]
        policies = [self.policy.distribution(output) for output in outputs]
        share = self.outer_objective(policies, batches).sum() / num_tasks

        leaves = [leaf for output in outputs for leaf in output.values()]
        gradients = iter(torch.autograd.grad(share, leaves, allow_unused=True))
        cotangents: list[Outputs | None] = []
        for output in outputs:
            cotangent = {name: next(gradients) for name in output}
            unused = any(gradient is None for gradient in cotangent.values())
            cotangents.append(None if unused else cotangent)
        return share.detach(), cotangents

    def fisher_product(
        self,
        meta: Parameters,
        batches: Sequence[Batch],
        trajectory: Trajectory,
        fraction: float = 1.0,
        memory: float = 512.0,
    ) -> "FisherProduct":
        """v ↦ F v at the meta-parameters that collected the batches.

        Args:
            meta: the meta-parameters.
            batches: support batches and query.
            trajectory: of the adaptation on these.
            fraction: share of each task's episodes on which F is estimated, support batches included; θ_0 … θ_K stay
                those of all the episodes.
            memory: megabytes for derivatives that are kept from one product to the next.
        """
        sampled = [batch.first_episodes(fraction) for batch in batches]
        return FisherProduct(self, meta, sampled, trajectory, memory)

    # ------------------------------------------------------------------ the adaptation

    def path(
        self, meta: Parameters, batches: Sequence[Batch], second_order: bool, trajectory: Trajectory | None = None
    ) -> AdaptationPath:
        """Adaptation from the meta-parameters through the support batches, then the network on the query."""
        start = expand_to_tasks(without_rates(meta), len(batches[0].obs))
        rates = [self.inner_rates.at(meta, step) for step in range(len(batches) - 1)]
        return AdaptationPath(self.policy, start, rates, batches, self.inner_objective, second_order, trajectory)

    def vjp(self, meta: Parameters, path: AdaptationPath, cotangents: Sequence[Outputs | None]) -> Tensor:
        """Gradient of Σ_k u_k · outputs_k by the meta-parameters, flat, summed over the path's tasks."""
        by_start, by_rates = path.vjp(cotangents)
        gradient = {name: leaf.sum(dim=0) for name, leaf in by_start.items()}
        gradient |= self.inner_rates.gradient(meta, by_rates)
        return flatten(gradient[name] for name in meta)


class FisherProduct:
    """v ↦ F v for the mean KL of the adapted policies: Gauss-Newton, Jᵀ F_π J with J through the adaptation.

    F_π is the Fisher matrix of the distributions on the query. F equals the Hessian of the mean KL at the parameters
    that collected the query, where the KL's own gradient vanishes.

    The derivatives at θ_0 … θ_K are prepared once and serve every product, as far as the memory goes; those of the
    other chunks of tasks are prepared anew each time. The products are the same.

    Source: Martens 2010, "Deep learning via Hessian-free optimization", section 4.2 (Gauss-Newton products).

    Attributes:
        num_kept: chunks whose derivatives are kept.

    Args:
        objective: gives the adaptation.
        meta: the meta-parameters.
        batches: support batches and query that F is estimated on.
        trajectory: θ_0 … θ_K of the adaptation.
        memory: megabytes.
    """

    def __init__(
        self,
        objective: MetaObjective,
        meta: Parameters,
        batches: Sequence[Batch],
        trajectory: Trajectory,
        memory: float,
    ) -> None:
        self._objective = objective
        self._meta = meta
        self._batches = batches
        self._trajectory = trajectory

        chunks = objective.pool.chunks(batches[-1].obs)
        self.num_kept = min(len(chunks), int(memory * 1e6) // max(self._bytes_of(chunks[0]), 1))
        kept = chunks[: self.num_kept]
        prepared = objective.pool.map(self._prepare, kept)
        self._prepared = {tasks.start: path for tasks, path in zip(kept, prepared, strict=True)}

    def __call__(self, vector: Tensor) -> Tensor:
        """F v of a flat change v of the meta-parameters."""
        return self._objective.pool.mean(lambda tasks: self._sum_of_chunk(tasks, vector), self._batches[-1].obs)

    def _sum_of_chunk(self, tasks: slice, vector: Tensor) -> Tensor:
        path = self._prepared.get(tasks.start) or self._prepare(tasks)
        query = self._batches[-1].tasks(tasks)
        steps = range(len(self._batches) - 1)
        change = unflatten_like(vector, self._meta)

        # J v: how the outputs on the query change.
        start = expand_to_tasks(without_rates(change), len(query.obs))
        tangent = path.jvp(start, [self._objective.inner_rates.learned_at(change, step) for step in steps])

        # F_π J v, weighed so that it is a mean over steps; what all steps share gets the sum of theirs.
        product = self._objective.policy.distribution(query.behaviour).fisher_product(tangent)
        weight = query.weight.unsqueeze(-1)
        cotangent = {name: (leaf * weight).sum_to_size(tangent[name].shape) for name, leaf in product.items()}

        # Jᵀ F_π J v.
        return self._objective.vjp(self._meta, path, [*(None for _ in steps), cotangent])

    def _prepare(self, tasks: slice) -> AdaptationPath:
        chunk = [batch.tasks(tasks) for batch in self._batches]
        objective = self._objective
        return objective.path(self._meta, chunk, objective.second_order, self._trajectory.tasks(tasks))

    def _bytes_of(self, tasks: slice) -> int:
        """Memory of one chunk's derivatives."""
        num_arrays = 4 * (len(self._batches) - 1) + 2  # of hidden units: 4 for a support batch, 2 for the query
        obs = self._batches[-1].tasks(tasks).obs
        num_steps = obs[..., 0].numel()
        hidden_units = sum(self._objective.policy.sizes[1:-1])
        return num_steps * hidden_units * num_arrays * obs.element_size()
