"""frozen-lake against Gymnasium's own FrozenLake, and its maps against a plain search."""

import gymnasium
import pytest
import torch

from metarl.agents.policies.reference import RandomPolicy
from metarl.envs.external.gymnasium_tasks import task_values
from metarl.envs.families.games.frozen_lake import SolvableLakes, description, frozen_lake
from metarl.envs.rollout import collect


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def has_way(lake: list[list[float]]) -> bool:
    """Depth-first search over ice."""
    size, seen, ahead = len(lake), set(), [(0, 0)]
    while ahead:
        y, x = ahead.pop()
        if not (0 <= y < size and 0 <= x < size) or lake[y][x] or (y, x) in seen:
            continue
        seen.add((y, x))
        ahead += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return (size - 1, size - 1) in seen


def test_contains_agrees_with_a_plain_search() -> None:
    drawn = (torch.rand((800, 4, 4), generator=rng()) < 0.35).float()
    expected = [has_way(lake) and 4 <= sum(map(sum, lake)) <= 6 for lake in drawn.tolist()]
    assert 20 < sum(expected) < 780
    assert SolvableLakes(4, 4, 6).contains(drawn).tolist() == expected
    assert not SolvableLakes(4, 0, 9).contains(torch.full((1, 4, 4), 0.5)).any()


@pytest.mark.parametrize(("fewest", "most"), [(2, 4), (5, 7)])
def test_maps_are_solvable_differ_and_have_each_number_of_holes(fewest: int, most: int) -> None:
    lakes = SolvableLakes(4, fewest, most).sample(300, rng())
    assert all(has_way(lake) for lake in lakes.tolist())
    counts = torch.bincount(lakes.sum(dim=(1, 2)).long(), minlength=most + 1)
    assert counts[fewest:].min() > 60
    assert int(counts[:fewest].sum()) == 0
    assert len({tuple(lake.flatten().tolist()) for lake in lakes}) > 100


@pytest.mark.parametrize("arguments", [(1, 0, 0), (4, 3, 2), (4, 0, 10), (4, -1, 2)])
def test_numbers_of_holes_that_leave_no_way_are_rejected(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="SolvableLakes needs"):
        SolvableLakes(*arguments)


def test_episodes_equal_gymnasiums_on_the_same_map() -> None:
    distribution = frozen_lake()
    distribution.family.pool._num_workers = 0
    tasks = distribution.sample(30, "test")
    episodes = collect(distribution.bind(tasks, 2), RandomPolicy(distribution.action_space), {}, rng())
    falls = 0
    for m, task in enumerate(task_values(tasks)):
        for e in range(2):
            gym = gymnasium.make("FrozenLake-v1", is_slippery=False, **description(task))
            field, _ = gym.reset(seed=0)
            for t in range(int(episodes.mask[m, e].sum())):
                assert int(episodes.obs[m, e, t].argmax()) == field
                field, reward, terminated, _, _ = gym.step(int(episodes.action[m, e, t]))
                assert float(episodes.reward[m, e, t]) == reward
            assert bool(episodes.terminated[m, e]) == terminated
            falls += terminated and reward == 0
    assert falls > 10
