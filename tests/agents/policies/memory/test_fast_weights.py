"""Fast weights: against a plain loop in numpy, what they write where, and what has no use for them."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from numpy.typing import NDArray

from metarl.agents.policies.memory.base import RecurrentConfig
from metarl.agents.policies.memory.fast_weights import FastWeightPolicy
from metarl.agents.policies.parameters import Parameters
from tests.helpers.agent_builders import seeded

STATES, ACTIONS, NUMBERS = 4, 3, 5
CONFIG = RecurrentConfig(NUMBERS, (6,), cell="fast-weights", memory_steps=10)
Array = NDArray[np.float64]


def of_states(actions: Space[object]) -> FastWeightPolicy:
    """A policy that sees one of four states, as zeros and a one."""
    return FastWeightPolicy(Box(0.0, 1.0, (STATES,)), actions, CONFIG)


def some_parameters(policy: FastWeightPolicy) -> Parameters:
    """Parameters none of which are zero, in double precision."""
    params = policy.init(seeded(0))
    moved = {}
    for name, leaf in params.items():
        moved[name] = (leaf + 0.3 * torch.randn(leaf.shape, generator=seeded(1))).double()
    return moved


def plain_loop(params: Parameters, obs: Array, action: Array, reward: Array, begins: Array) -> tuple[Array, Array]:
    """Logits (T, A) and values (T,) of one trial, from the equations, a row and an action at a time."""
    weight = {name: leaf.numpy() for name, leaf in params.items()}
    rows = weight["address.bias"].shape[0]
    table = np.zeros((rows, ACTIONS, NUMBERS))
    logits, values = [], []

    def address(seen: Array) -> Array:
        exponentials = np.exp(seen @ weight["address.weight"] + weight["address.bias"])
        return np.asarray(exponentials / exponentials.sum())

    def read(seen: Array) -> Array:
        return np.asarray(np.einsum("r,rav->av", address(seen), table))

    def head(name: str, inputs: Array) -> Array:
        hidden = np.tanh(inputs @ weight[f"{name}.layer0.weight"] + weight[f"{name}.layer0.bias"])
        return np.asarray(hidden @ weight[f"{name}.layer1.weight"] + weight[f"{name}.layer1.bias"])

    for time, seen in enumerate(obs):
        if time > 0:
            last, came_from = int(action[time - 1]), obs[time - 1]
            old = read(came_from)[last]
            next_rows = read(seen)
            one_hot = np.eye(ACTIONS)[last]
            earned = reward[time - 1] / weight["reward_scale"]
            inputs = [seen, one_hot, [earned], [begins[time]], came_from, old, next_rows.mean(0), next_rows.max(0)]
            joined = np.concatenate(inputs)
            target = np.tanh(joined @ weight["write.value.weight"] + weight["write.value.bias"])
            gate = 1 / (1 + np.exp(-(joined @ weight["write.gate.weight"] + weight["write.gate.bias"])))
            for row, share in enumerate(address(came_from)):
                table[row, last] += share * gate * (target - old)

        recalled = read(seen)
        around = np.concatenate([recalled.mean(0), recalled.max(0), seen])
        of_actions = [np.concatenate([recalled[a], around, np.eye(ACTIONS)[a]]) for a in range(ACTIONS)]
        logits.append([head("policy", inputs)[0] for inputs in of_actions])
        values.append(head("value", around)[0])
    return np.array(logits), np.array(values)


def test_trials_are_those_of_a_plain_loop_over_steps_rows_and_actions() -> None:
    policy = of_states(Discrete(ACTIONS))
    params = some_parameters(policy)
    trials, steps = 3, 9
    obs = torch.eye(STATES).double()[torch.randint(STATES, (trials, steps), generator=seeded(2))]
    action = torch.randint(ACTIONS, (trials, steps), generator=seeded(3))
    reward = torch.randn((trials, steps), generator=seeded(4)).double()
    begins = torch.zeros((trials, steps)).double()
    begins[:, ::4] = 1

    distribution, value = policy.unroll(params, obs, action, reward, begins)
    for trial in range(trials):
        own = (obs[trial].numpy(), action[trial].numpy(), reward[trial].numpy(), begins[trial].numpy())
        logits, values = plain_loop(params, *own)
        log_probabilities = torch.log_softmax(torch.from_numpy(logits), dim=-1)
        torch.testing.assert_close(distribution.parameters()["logits"][trial].log_softmax(-1), log_probabilities)
        torch.testing.assert_close(value[trial], torch.from_numpy(values))


def test_a_step_is_written_where_it_came_from_and_nowhere_else() -> None:
    policy = of_states(Discrete(ACTIONS))
    params = policy.init(seeded(0))
    states = torch.eye(STATES)
    _, memory = policy.apply(params, states[[2]])
    assert not bool(memory["table"].any())

    memory = policy.observe(memory, torch.tensor([1]), torch.tensor([3.0]), torch.tensor([False]))
    _, memory = policy.apply(params, states[[0]], memory)
    table = memory["table"].reshape(STATES, ACTIONS, NUMBERS).abs().amax(dim=-1)
    written = torch.zeros(STATES, ACTIONS)
    written[2, 1] = float(table[2, 1])
    assert float(table[2, 1]) > 0.05
    torch.testing.assert_close(table, written, atol=1e-2 * float(table[2, 1]), rtol=0)


@pytest.mark.parametrize("actions", [Box(-1.0, 1.0, (2,)), MultiDiscrete([2, 3])], ids=str)
def test_actions_that_are_no_single_choice_have_one_column(actions: Space[object]) -> None:
    policy = of_states(actions)
    params = policy.init(seeded(0))
    distribution, memory = policy.apply(params, torch.eye(STATES))
    assert policy.num_columns == 1
    assert not bool(memory["table"].any())

    done = distribution.sample(seeded(1))
    memory = policy.observe(memory, done, torch.ones(STATES), torch.zeros(STATES, dtype=torch.bool))
    _, memory = policy.apply(params, torch.eye(STATES).roll(1, dims=0), memory)
    assert memory["table"].shape == (STATES, STATES * NUMBERS)
    assert bool(memory["table"].any(dim=1).all())


@pytest.mark.parametrize("option", ["hypernetwork", "observation_again", "separate_networks", "input_gain"])
def test_options_of_recurrent_units_are_refused(option: str) -> None:
    value = 2.0 if option == "input_gain" else True
    with pytest.raises(ValueError, match=f"{option} is for gru and lstm"):
        RecurrentConfig(cell="fast-weights", **{option: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory_rows is for fast-weights"):
        RecurrentConfig(memory_rows=3)


@pytest.mark.parametrize("truncation", [0, 3])
@pytest.mark.parametrize(
    ("size", "rows", "actions"),
    [(4, 0, Discrete(3)), (1, 0, Discrete(5)), (3, 5, MultiDiscrete([2, 3]))],
    ids=["rows", "one-row", "one-column"],
)
def test_derivatives_are_those_of_autograd_step_by_step(
    size: int, rows: int, actions: Space[object], truncation: int
) -> None:
    config = RecurrentConfig(NUMBERS, (6,), cell="fast-weights", memory_steps=10, memory_rows=rows)
    policy = FastWeightPolicy(Box(-1.0, 1.0, (size,)), actions, config)
    params = {name: leaf.requires_grad_() for name, leaf in some_parameters(policy).items()}
    trials, steps = 3, 10
    obs = torch.rand((trials, steps, size), generator=seeded(2)).double().requires_grad_()
    actions.seed(3)
    action = torch.stack([torch.as_tensor(actions.sample()) for _ in range(trials * steps)])
    action = action.reshape(trials, steps, *action.shape[1:])
    reward = torch.randn((trials, steps), generator=seeded(4)).double()
    begins = torch.zeros((trials, steps)).double()
    begins[:, ::4] = 1

    distribution, _ = policy.unroll(params, obs, action, reward, begins, truncation)
    ours = distribution.parameters()["logits"]
    expected = played(policy, params, obs, action, reward, begins, truncation)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)

    factor = torch.randn(ours.shape, generator=seeded(5)).double()
    leaves = [obs, *(leaf for name, leaf in params.items() if not name.startswith("value"))]
    for one, other in zip(
        *(torch.autograd.grad((out * factor).sum(), leaves) for out in (ours, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def played(
    policy: FastWeightPolicy,
    params: Parameters,
    obs: torch.Tensor,
    action: torch.Tensor,
    reward: torch.Tensor,
    begins: torch.Tensor,
    truncation: int,
) -> torch.Tensor:
    """Logits (N, T, outputs) of an actor that comes to the same steps, which autograd differentiates."""
    memory = None
    logits = []
    for time in range(obs.shape[1]):
        if memory is not None:
            memory["running"] = 1 - begins[:, time].unsqueeze(-1)
        if memory is not None and truncation and time % truncation == 0:
            memory = memory | {name: memory[name].detach() for name in ("table", "recalled")}
        distribution, memory = policy.apply(params, obs[:, time], memory)
        logits.append(distribution.parameters()["logits"])
        done = torch.zeros(len(obs), dtype=torch.bool)
        memory = policy.observe(memory, action[:, time], reward[:, time], done)
    return torch.stack(logits, dim=1)
