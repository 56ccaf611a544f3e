"""Fused functions equal plain ones, draw the same random numbers, and are refused where they cannot be traced."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.agents.policies.mlp import MLPPolicy
from metarl.envs.graphs import fuse
from metarl.envs.graphs.capture import between_graphs
from metarl.envs.graphs.functions import FunctionGraphs
from metarl.envs.graphs.fuse import THIN, CannotFuseError, Fused
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.envs.task_distribution import TaskDistribution
from tests.helpers.captured_steps import again
from tests.helpers.family_play import rng
from tests.helpers.torch_families import TORCH_FAMILIES


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The traced operations run one by one, without a compiler, which takes half a minute; they are returned."""
    traced: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., list[Tensor]]:
        traced.append(graph)
        return graph

    monkeypatch.setattr(fuse, "_kernels", keep)
    return traced


def drawing(generator: torch.Generator) -> Callable[..., Any]:
    """A function that draws in four ways, between which it computes."""

    def function(values: dict[str, Tensor], factor: int) -> tuple[Tensor, dict[str, Any], Tensor]:
        noise = torch.randn((3, 4), generator=generator)
        choice = torch.multinomial((values["x"] @ noise).softmax(-1), 1, generator=generator)
        uniform = torch.rand((5,), generator=generator)
        number = torch.randint(0, 9, (2,), generator=generator)
        return values["x"] * factor + uniform[:, None], {"choice": choice, "nothing": None, "factor": factor}, number

    return function


@pytest.mark.usefixtures("interpreted")
def test_draws_come_in_the_order_of_the_plain_function() -> None:
    generator = rng(0)
    function = drawing(generator)
    fused = Fused(function, ({"x": torch.ones(5, 3)}, 2), generator)

    for seed in range(20):
        values = {"x": torch.randn((5, 3), generator=rng(seed))}
        generator.manual_seed(seed)
        plain, plain_end = function(values, 2), generator.get_state()
        generator.manual_seed(seed)
        made, made_end = fused(values, 2), generator.get_state()

        assert torch.equal(made_end, plain_end)
        torch.testing.assert_close(made[0], plain[0], rtol=0, atol=0)
        assert torch.equal(made[1].pop("choice"), plain[1].pop("choice"))
        assert made[1] == plain[1] == {"nothing": None, "factor": 2}
        assert torch.equal(made[2], plain[2])


def test_derivatives_within_a_function_are_traced(interpreted: list[torch.fx.GraphModule]) -> None:
    """The gradient of Σ x³ is 3 x²."""

    def gradient(values: Tensor) -> Tensor:
        leaf = values.detach().requires_grad_()
        return torch.autograd.grad(leaf.pow(3).sum(), [leaf])[0]

    fused = Fused(gradient, (torch.ones(4),))
    values = torch.randn((4,), generator=rng(1))
    torch.testing.assert_close(fused(values), 3 * values.square())
    assert not any("backward" in str(node.target) for node in interpreted[0].graph.nodes)


@pytest.mark.parametrize("sizes", [(5, 2, 40), (40, 30, 2), (THIN, 64, 64), (THIN + 1, 64, 64)])
@pytest.mark.parametrize("added", [False, True])
def test_thin_products_become_sums(
    interpreted: list[torch.fx.GraphModule], sizes: tuple[int, int, int], added: bool
) -> None:
    rows, terms, columns = sizes
    left, right = torch.randn((3, rows, terms), generator=rng(1)), torch.randn((3, terms, columns), generator=rng(2))
    bias = torch.randn((3, 1, columns), generator=rng(3)) if added else None

    def product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        return torch.bmm(left, right) if bias is None else torch.baddbmm(bias, left, right)

    fused = Fused(product, (left, right, bias))
    torch.testing.assert_close(fused(left, right, bias), product(left, right, bias))
    by_library = any("bmm" in str(node.target) for node in interpreted[0].graph.nodes)
    assert by_library == (min(sizes) > THIN)


@pytest.mark.usefixtures("interpreted")
def test_what_cannot_be_traced_is_refused() -> None:
    def asks(values: Tensor) -> Tensor:
        return values + 1 if bool(values.sum() > 0) else values

    def calls_another_library(values: Tensor) -> Tensor:
        between_graphs(lambda: None)
        return values

    def draws_from_numbers(values: Tensor) -> Tensor:
        return torch.bernoulli(values, generator=rng(1))

    for function, reason in (
        (asks, "tracing tensor"),
        (calls_another_library, "calls another library"),
        (draws_from_numbers, "draws from numbers that are computed"),
    ):
        with pytest.raises(CannotFuseError, match=reason):
            Fused(function, (torch.ones(2),), rng(1))


@pytest.mark.usefixtures("interpreted")
def test_a_function_that_is_not_fused_is_said_and_captured() -> None:
    def calls_another_library(values: Tensor) -> Tensor:
        between_graphs(lambda: None)
        return values * 2

    said: list[str] = []
    graphs = FunctionGraphs(again, torch.device("cpu"), said.append, fuse=True)
    assert torch.equal(graphs.run(calls_another_library, torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(graphs.run(calls_another_library, torch.full((2,), 3.0)), torch.full((2,), 6.0))
    assert len(said) == 1 and "is not fused: it calls another library" in said[0]


def test_what_is_a_long_loop_is_not_fused(interpreted: list[torch.fx.GraphModule]) -> None:
    graphs = FunctionGraphs(again, torch.device("cpu"), pytest.fail, fuse=True)
    graphs.run(torch.square, torch.ones(2), fuse=False)
    assert not interpreted
    graphs.run(torch.square, torch.ones(3))
    assert len(interpreted) == 1


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", TORCH_FAMILIES)
def test_fused_rollouts_equal_plain_ones(name: str) -> None:
    """Two rollouts on different tasks with different parameters, from the same generator."""
    distribution = make_distribution(name)
    env = distribution.task_env
    env.horizon = min(env.horizon, 4)
    policy = MLPPolicy(distribution.observation_space, distribution.action_space)

    def both() -> tuple[list[Any], Tensor]:
        generator = rng(5)
        return [_rollout(distribution, policy, seed, generator) for seed in (1, 2)], generator.get_state()

    plain, plain_end = both()
    env.capture_rollouts(policy, again, fuse=True)
    fused, fused_end = both()

    assert torch.equal(plain_end, fused_end)
    for one, other in zip(fused, plain, strict=True):
        assert torch.equal(one.mask, other.mask)
        for leaf in ("obs", "action", "reward", "last_obs"):
            torch.testing.assert_close(getattr(one, leaf), getattr(other, leaf), rtol=1e-4, atol=1e-5)


def _rollout(distribution: TaskDistribution, policy: MLPPolicy, seed: int, generator: torch.Generator) -> Any:
    params = {name: leaf.expand(3, *leaf.shape) for name, leaf in policy.init(rng(seed)).items()}
    return collect(distribution.bind(distribution.sample(3, "train", rng(seed)), 2), policy, params, generator)


@pytest.mark.slow
def test_compiled_functions_equal_plain_ones() -> None:
    """With the compiler itself: the function that draws."""
    generator = rng(0)
    function = drawing(generator)
    fused = Fused(function, ({"x": torch.ones(5, 3)}, 2), generator)
    values = {"x": torch.randn((5, 3), generator=rng(3))}
    generator.manual_seed(3)
    plain = function(values, 2)
    generator.manual_seed(3)
    torch.testing.assert_close(fused(values, 2)[0], plain[0])
