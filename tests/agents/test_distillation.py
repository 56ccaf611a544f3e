"""Distillation: against a plain loop over tasks, exact enumeration, and what it must end in."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from metarl.agents.distillation import Distillation, DistillationConfig
from metarl.agents.learner import MetaBatch
from metarl.agents.maml import MAML
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters, expand_to_tasks
from metarl.agents.teachers import Teachers
from metarl.envs.rollout import Episodes
from tests.helpers.agent_builders import ACTION_SPACES, OBSERVATION_SPACE, TINY, random_episodes, seeded

TEACHER = PolicyConfig(hidden_sizes=(5, 4))
NUM_TASKS = 3
PLAIN = DistillationConfig(policy=TINY, outer="ppo", inner_kl_penalty=0.0, future_credit=0.0, gae_lambda=0.9)


def make_teachers(head: str, num_teachers: int = NUM_TASKS, config: PolicyConfig = TEACHER) -> Teachers:
    """Teachers of random tasks with random parameters."""
    policy = MLPPolicy(OBSERVATION_SPACE, ACTION_SPACES[head], config)
    several = [policy.init(seeded(seed)) for seed in range(10, 10 + num_teachers)]
    params = {name: torch.stack([one[name] for one in several]) for name in several[0]}
    return Teachers(policy, params, {"goal": torch.randn(num_teachers, 2, generator=seeded(1))})


def make_student(head: str, config: DistillationConfig, teachers: Teachers | None = None) -> Distillation:
    student = Distillation(OBSERVATION_SPACE, ACTION_SPACES[head], config, seeded(0))
    student.teachers = teachers or make_teachers(head)
    return student


def sample(student: Distillation) -> tuple[list[Episodes], Episodes]:
    """Batches as the training loop collects them."""
    generator, adapted, support = seeded(2), student.begin(NUM_TASKS), []
    for _ in range(student.sampling.support):
        support.append(random_episodes(student.policy, adapted.params, generator))
        adapted = student.adapt(adapted, support[-1])
    return support, random_episodes(student.policy, adapted.params, generator)


def gradient_of(student: Distillation, support: list[Episodes], query: Episodes) -> Parameters:
    teachers = torch.arange(len(query.obs))
    batches = student.distillation_batches(support, query, teachers)
    _, gradient, _ = student.objective.value_and_gradient(student.meta_parameters, batches)
    return gradient


def parameters_of(student: Distillation) -> Parameters:
    return {name: leaf[0].clone() for name, leaf in student.begin(1).params.items()}


# ---------------------------------------------------------------------- the objective


@pytest.mark.parametrize("head", ACTION_SPACES)
@pytest.mark.parametrize("divergence", ["student-teacher", "teacher-student"])
def test_gradient_is_that_of_a_plain_loop_over_tasks(head: str, divergence: str) -> None:
    config = replace(PLAIN, divergence=divergence, temperature=2.0)  # type: ignore[arg-type]
    student = make_student(head, config)
    support, query = sample(student)
    teachers = student.teachers
    assert teachers is not None

    theta = {name: leaf.requires_grad_() for name, leaf in parameters_of(student).items()}
    total = torch.zeros(())
    for task in range(NUM_TASKS):
        advantage = student.batch(support[0]).advantage[task]
        acting, _ = student.policy.apply(theta, support[0].obs[task])
        collected = student.policy.distribution({n: leaf[task] for n, leaf in support[0].behaviour.items()})
        action, steps = support[0].action[task], support[0].mask[task].sum()
        ratio = torch.exp(acting.log_prob(action) - collected.log_prob(action))
        inner = (ratio * advantage * support[0].mask[task]).sum() / steps
        slopes = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
        phi = {n: leaf + config.inner_lr * slope for (n, leaf), slope in zip(theta.items(), slopes, strict=True)}
        ours, _ = student.policy.apply(phi, query.obs[task])
        own = {name: leaf[task] for name, leaf in teachers.params.items()}
        theirs, _ = teachers.policy.apply(own, query.obs[task])
        theirs = theirs.tempered(2.0)
        kl = ours.kl(theirs) if divergence == "student-teacher" else theirs.kl(ours)
        total = total - (kl * query.mask[task]).sum() / query.mask[task].sum() / NUM_TASKS
    expected = torch.autograd.grad(total, list(theta.values()))

    for (name, leaf), other in zip(gradient_of(student, support, query).items(), expected, strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-4, atol=1e-6, msg=name)


HORIZON = 3
POLICY = PolicyConfig(hidden_sizes=(3,), activation="tanh")
ENUMERATED = replace(
    PLAIN, policy=POLICY, match="initial", future_credit=1.0, gamma=1.0, gae_lambda=1.0, adaptation_steps=1
)


def observations_of(actions: Tensor) -> Tensor:
    """A deterministic environment: the observation holds the last action and the time, (…, H) -> (…, H, 2)."""
    last = torch.cat([torch.zeros_like(actions[..., :1]), actions[..., :-1]], dim=-1)
    return torch.stack([2.0 * last - 1, torch.arange(HORIZON).expand(last.shape) / 2 + 0.5 * last], dim=-1)


def enumerated_objective(student: Distillation, theta: Parameters) -> Tensor:
    """−E[Σ_t KL_t] / H over all 3³ action sequences, differentiable."""
    teachers = student.teachers
    assert teachers is not None
    every = torch.tensor(list(product(range(3), repeat=HORIZON)))
    obs = observations_of(every)
    ours, _ = student.policy.apply(theta, obs)
    theirs, _ = teachers.policy.apply({name: leaf[0] for name, leaf in teachers.params.items()}, obs)
    probability = ours.log_prob(every).sum(dim=1).exp()
    return -(probability * ours.kl(theirs).sum(dim=1)).sum() / HORIZON


def played(student: Distillation, episodes: int) -> Episodes:
    """Episodes of the student in that environment."""
    theta, generator = parameters_of(student), seeded(3)
    actions = torch.zeros(1, episodes, HORIZON, dtype=torch.long)
    for step in range(HORIZON):
        distribution, _ = student.policy.apply(theta, observations_of(actions))
        actions[..., step] = distribution.sample(generator)[..., step]
    obs = observations_of(actions)
    distribution, _ = student.policy.apply(theta, obs)
    return Episodes(
        obs=obs,
        action=actions,
        reward=torch.zeros(1, episodes, HORIZON),
        mask=torch.ones(1, episodes, HORIZON),
        terminated=torch.zeros(1, episodes, dtype=torch.bool),
        last_obs=obs[:, :, -1],
        behaviour=distribution.parameters(),
    )


def test_future_credit_makes_it_the_gradient_of_the_expected_divergence() -> None:
    errors = {}
    for credit in (0.0, 1.0):
        student = make_student("categorical", replace(ENUMERATED, future_credit=credit))
        theta = {name: leaf.requires_grad_() for name, leaf in parameters_of(student).items()}
        exact = torch.autograd.grad(enumerated_objective(student, theta), list(theta.values()))
        sampled = gradient_of(student, [], played(student, 40_000))
        expected = torch.cat([leaf.flatten() for leaf in exact])
        found = torch.cat([leaf.flatten() for leaf in sampled.values()])
        errors[credit] = float((found - expected).norm() / expected.norm())
    assert errors[1.0] < 0.02
    assert errors[0.0] > 3 * errors[1.0], errors


# ---------------------------------------------------------------------- what it ends in


@pytest.mark.parametrize(("head", "divergence"), [("gaussian", "student-teacher"), ("categorical", "teacher-student")])
def test_student_of_one_teacher_becomes_that_teacher(head: str, divergence: str) -> None:
    teachers = make_teachers(head, num_teachers=1)
    params = {name: leaf[:1] for name, leaf in teachers.params.items()}
    watched = random_episodes(teachers.policy, params, seeded(4), size=(1, 10, 4))
    teachers = replace(teachers, episodes=watched)
    config = replace(
        PLAIN,
        policy=TEACHER,
        match="initial",
        states="teacher",
        outer_lr=0.02,
        divergence=divergence,  # type: ignore[arg-type]
    )
    student = make_student(head, config, teachers)
    assert (student.sampling.support, student.sampling.query) == (0, False)
    history = [student.update(MetaBatch([], None, 0.0, teachers.tasks))["divergence_k0"] for _ in range(150)]
    assert history[-1] < 0.01 * history[0]


def test_adapted_students_come_closer_to_their_own_teachers() -> None:
    student = make_student("gaussian", replace(PLAIN, future_credit=1.0, inner_lr_mode="meta-sgd", outer_lr=0.01))
    assert student.teachers is not None
    support, query = sample(student)
    history = [student.update(MetaBatch(support, query, 0.0, student.teachers.tasks)) for _ in range(30)]
    assert history[-1]["divergence_k1"] < 0.5 * history[0]["divergence_k1"]


@pytest.mark.parametrize("outer", ["ppo", "trpo"])
def test_every_step_counts_where_all_are_matched(outer: str) -> None:
    config = replace(PLAIN, adaptation_steps=2, objective_steps="all", outer=outer)  # type: ignore[arg-type]
    student = make_student("gaussian", config)
    assert student.teachers is not None
    support, query = sample(student)
    metrics = student.update(MetaBatch(support, query, 0.0, student.teachers.tasks))
    matched = (metrics["divergence_k1"] + metrics["divergence_k2"]) / 2
    assert metrics["surrogate"] == pytest.approx(-matched, rel=1e-5)


@pytest.mark.parametrize("outer", ["ppo", "trpo"])
def test_an_unadapted_student_has_no_support_batches_to_be_penalised_for(outer: str) -> None:
    config = DistillationConfig(policy=TINY, match="initial", outer=outer)  # type: ignore[arg-type]
    assert config.inner_kl_penalty > 0
    student = make_student("gaussian", config)
    assert student.teachers is not None
    support, query = sample(student)
    assert support == []
    metrics = student.update(MetaBatch(support, query, 0.0, student.teachers.tasks))
    assert metrics["surrogate"] == pytest.approx(-metrics["divergence_k0"], rel=1e-5)


# ---------------------------------------------------------------------- teachers


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_each_task_gets_its_own_teacher(shape: tuple[int, ...]) -> None:
    """Whatever the shape of a task parameter."""
    teachers = make_teachers("gaussian", num_teachers=5)
    teachers = replace(teachers, tasks={**teachers.tasks, "gain": torch.randn(5, *shape, generator=seeded(2))})
    order = torch.tensor([3, 0, 3, 4])
    drawn = {name: value[order] for name, value in teachers.tasks.items()}
    assert teachers.index(drawn).tolist() == order.tolist()


def test_a_task_without_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="a task has no teacher"):
        make_teachers("gaussian").index({"goal": torch.zeros(1, 2)})


def test_student_needs_no_teacher_to_adapt() -> None:
    """It adapts as MAML from the same parameters does."""
    student = make_student("gaussian", PLAIN)
    student.teachers = None
    maml = MAML(OBSERVATION_SPACE, ACTION_SPACES["gaussian"], PLAIN, seeded(0))
    episodes = random_episodes(student.policy, expand_to_tasks(parameters_of(student), NUM_TASKS), seeded(5))
    ours, theirs = (one.adapt(one.begin(NUM_TASKS), episodes).params for one in (student, maml))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_teachers_are_not_changed() -> None:
    student = make_student("gaussian", replace(PLAIN, future_credit=1.0))
    assert student.teachers is not None
    before = copy.deepcopy(student.teachers.params)
    support, query = sample(student)
    student.update(MetaBatch(support, query, 0.0, student.teachers.tasks))
    assert all(torch.equal(before[name], leaf) for name, leaf in student.teachers.params.items())


# ---------------------------------------------------------------------- bad values

BAD: list[tuple[Callable[[], DistillationConfig], str]] = [
    (lambda: DistillationConfig(num_teachers=0), "num_teachers"),
    (lambda: DistillationConfig(expert_env_steps=0), "expert_env_steps"),
    (lambda: DistillationConfig(temperature=0.0), "temperature"),
    (lambda: DistillationConfig(future_credit=-1.0), "future_credit"),
    (lambda: DistillationConfig(match="initial", objective_steps="all"), "objective_steps"),
    (lambda: DistillationConfig(states="teacher", outer="trpo"), "outer 'ppo'"),
    (lambda: DistillationConfig(inner_lr=-1.0), "inner_lr"),
]


@pytest.mark.parametrize(("make", "names"), BAD)
def test_bad_values_are_refused_by_name(make: Callable[[], DistillationConfig], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        make()
