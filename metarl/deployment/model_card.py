"""The model card of a specialised policy as Markdown, from the same data as its JSON."""

from typing import Any

from gymnasium.spaces import Discrete, MultiDiscrete, Space

from metarl.console import counted, format_number
from metarl.deployment.specialise import clearly_better
from metarl.envs.external.space_json import space_from_json
from metarl.envs.spaces.fields import fields_of, inner_spaces, one_line

CURVE_HEADINGS = ("adaptation step", "episodes", "env steps", "mean return", "std over episodes")
FIELD_HEADINGS = ("index", "field", "unit", "space")
NO_UNIT = "not stated"
LONGEST_SPACE = 200
"""Characters of a field's space, of which each bound may be another."""
LONGEST_TASK = 100
"""Characters of a title's task."""


def markdown(description: dict[str, Any]) -> str:
    """The card: task, returns, steps, how to run it, parent run, versions.

    Args:
        description: what policy.json holds.
    """
    parent = description["parent"]
    observations = space_from_json(description["observation_space"])
    actions = one_line(space_from_json(description["action_space"]))
    versions = description["versions"]

    sections = [
        f"# {parent['agent']} adapted to {title(description)}",
        "A policy for one task, made by `metarl adapt`. The same data for machines: `policy.json`.",
        "## How well it does",
        _table(CURVE_HEADINGS, curve_rows(description)),
        " ".join(summary(description)),
        "## How to run it",
        _usage(description, observations),
        "## Spaces",
        f"What is observed, as a vector of float32, index for index:{_normalisation(description)}",
        _table(FIELD_HEADINGS, _field_rows(observations, description.get("units", {}))),
        f"Actions: {actions}. Horizon: {counted(description['horizon'], 'step')}.",
        "## Parent",
        _table(("", ""), [(name.replace("_", " "), str(value)) for name, value in parent.items()]),
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]

    return "\n\n".join(sections) + "\n"


def _normalisation(description: dict[str, Any]) -> str:
    """Whether the policy normalises what it observes."""
    if "observation_shift" not in description["network"]:
        return ""
    return (
        " Every program here takes observations as the environment gives them, and normalises them itself by the mean "
        "and the standard deviation of those seen in training."
    )


def _field_rows(observations: Space[Any], units: dict[str, str]) -> list[tuple[str, ...]]:
    """Which index holds what, as text below FIELD_HEADINGS."""
    rows: list[tuple[str, ...]] = []
    for field in fields_of(observations, units):
        space = field.space if len(field.space) <= LONGEST_SPACE else field.space[:LONGEST_SPACE] + "…"
        cells = (field.name or "all of it", field.unit or NO_UNIT, space)
        rows.append((field.indices, *(cell.replace("|", r"\|") for cell in cells)))
    return rows


def curve_rows(description: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns after k = 0 … K adaptation steps, as text below CURVE_HEADINGS."""
    curve = description["adaptation"]
    columns = curve["episodes"], curve["env_steps"], curve["return_mean"], curve["return_std"]
    return [
        (str(k), str(episodes), f"{env_steps:,}", format_number(mean, ".2f"), format_number(std, ".2f"))
        for k, (episodes, env_steps, mean, std) in enumerate(zip(*columns, strict=True))
    ]


def title(description: dict[str, Any]) -> str:
    """What the policy is adapted to, e.g. "point-navigation/finn, goal=0.3,0.2"."""
    task = description["task"]
    if task is None:
        return str(description["env"])

    text = " ".join(f"{name}={_numbers(value)}" for name, value in task.items())
    if len(text) > LONGEST_TASK:
        text = text[:LONGEST_TASK] + "…"
    return f"{description['env']}, {text}"


def summary(description: dict[str, Any]) -> list[str]:
    """Sentences on what adaptation cost and what the policy earns."""
    adaptation = description["adaptation"]
    cost = (
        f"Adaptation took {counted(adaptation['adaptation_episodes'], 'episode')}, "
        f"{adaptation['adaptation_env_steps']:,} environment steps"
    )
    if adaptation["measurement_env_steps"]:
        cost += f" (and {adaptation['measurement_env_steps']:,} to measure the result)"
    sentences = [f"{cost}."]

    if "last_action" in description.get("inputs", ()):
        sentences.append("The policy learns in its memory and goes on learning wherever it is used.")
    keep = adaptation.get("keep", "last")
    if keep == "best":
        sentences.append(_what_was_kept(adaptation))
    elif "last_action" not in description.get("inputs", ()):
        sentences += _what_was_better(adaptation, description["deterministic"], written=keep == "auto")
    if adaptation.get("noise_scale", 1) != 1:
        sentences.append(f"Exploration noise was {adaptation['noise_scale']:g} times that of the policy.")
    if description.get("action_limit", 1) != 1:
        share = f"{100 * description['action_limit']:g} %"
        sentences.append(
            f"Actions are clipped to the middle {share} of their range (without bounds: of what the policy's [−1, 1] "
            "spans), here and in every program."
        )

    measured = description["deterministic"]
    if measured is not None:
        std = format_number(measured["return_std"], ".2f")
        episodes = f"mean of {counted(measured['episodes'], 'episode')}, std {std}"
        mean = format_number(measured["return_mean"], ".2f")
        sentences.append(f"The policy acting deterministically: return {mean} ({episodes}).")

    return sentences


def _what_was_kept(adaptation: dict[str, Any]) -> str:
    """Which of the policies was the best one, and whether the last one was measured."""
    steps = adaptation["steps"]
    returns = adaptation["return_mean"]
    if not returns:
        return f"Kept is the policy after step {adaptation['kept_step']}: none was measured."

    kept = adaptation["kept_step"]
    best = format_number(returns[kept], ".2f")
    sentence = f"Kept is the policy after step {kept}, the best of those measured (return {best})"
    return f"{sentence}." if len(returns) > steps else f"{sentence}; the one after step {steps} was not measured."


def _what_was_better(adaptation: dict[str, Any], measured: dict[str, Any] | None, written: bool) -> list[str]:
    """That an earlier policy earned more than the last one, and was written or not; nothing where it may be chance."""
    returns = adaptation["return_mean"]
    if measured is None or len(returns) <= adaptation["steps"]:
        return []

    counts = [adaptation["episodes_per_step"]] * adaptation["steps"] + [measured["episodes"]]
    best = clearly_better(returns, adaptation["return_std"], counts)
    if best is None:
        return []

    more, less = (format_number(returns[step], ".2f") for step in (best, -1))
    if written:
        return [f"Kept is the policy after step {best}: it earned more than the last one, {more} against {less}."]
    return [f"The policy after step {best} earned more, {more} against {less}: --keep auto writes that one."]


def _loading(kind: str) -> list[str]:
    """Code that loads the policy; a network of the user's own has to be given."""
    module, _, name = kind.rpartition(":")
    if not module:
        return ["import metarl", "", 'policy = metarl.load_policy("DIR")']
    outermost = name.partition(".")[0]
    return [
        "import metarl",
        f"from {module} import {outermost}",
        "",
        f'policy = metarl.load_policy("DIR", {name}(…))  # made as the agent makes it',
    ]


_ONNX = (
    "import numpy  # or without metarl",
    "import onnxruntime",
    "",
    'session = onnxruntime.InferenceSession("DIR/policy.onnx")',
)


def _usage(description: dict[str, Any], observations: Space[Any]) -> str:
    """How to load and run the policy, with metarl and without, and what its programs take and give."""
    learns = "last_action" in description["inputs"]
    outputs = ", ".join(f"`{name}`" for name in description["outputs"])
    explanation = (
        f"Outputs: {outputs}, batched over the first dimension. `action` is deterministic and in the environment's "
        "units; the others are the policy's own, before clipping and stretching."
    )
    code = [*_loading(description["network"]["kind"]), *(_LEARNING if learns else ["action, _ = policy.predict(obs)"])]

    difference = description.get("onnx_difference")
    if difference is not None:
        alone = _LEARNING_ALONE if learns else _acting_alone(description)
        code += ["", *_ONNX, *_vector_of(observations), *alone]
        explanation += f" ONNX gives the same actions to {difference:.1g}."

    memory = description["inputs"][1:]
    if learns:
        explanation += _how_it_learns(description)
    elif memory:
        following = ", ".join(f"next_{name}" for name in memory)
        explanation += (
            f" The memory goes in as {', '.join(memory)}, zeros at the start of an episode, and comes out as "
            f"{following}."
        )

    explanation += " `policy.pt2` is the same as a `torch.export` program."
    return "\n".join(["```python", *code, "```", "", explanation])


def _acting_alone(description: dict[str, Any]) -> list[str]:
    """Code for one step of a program that does not learn in its memory."""
    memory = description["inputs"][1:]
    if not memory:
        return ['action = session.run(["action"], {"obs": vector[None]})[0][0]']

    zeros = "{one.name: numpy.zeros([1, *one.shape[1:]], numpy.float32) for one in session.get_inputs()[1:]}"
    following = ", ".join(f'"next_{name}"' for name in memory)
    return [
        f"memory = {zeros}  # for each episode",
        f'action, *following = session.run(["action", {following}], {{"obs": vector[None], **memory}})',
        "action = action[0]",
        "memory = dict(zip(memory, following))",
    ]


def _vector_of(observations: Space[Any]) -> list[str]:
    """Code that makes `vector` (O,) of an observation `obs` as the environment gives it."""
    parts = _code_of_parts(observations, "obs")
    if len(parts) == 1:
        return [f'vector = numpy.hstack([{parts[0]}]).astype("float32")']
    return ["vector = numpy.hstack([", *(f"    {part}," for part in parts), ']).astype("float32")']


def _code_of_parts(space: Space[Any], code: str) -> list[str]:
    """Code for the numbers of each part of a space; `code` is what gives an observation of the space itself."""
    inner = inner_spaces(space)
    if inner is not None:
        parts = []
        for key, one in inner:
            parts += _code_of_parts(one, f"{code}[{key!r}]")
        return parts

    match space:
        case Discrete():
            return [f"numpy.eye({space.n})[int({code}) - {space.start}]"]
        case MultiDiscrete():
            counts = space.nvec.ravel().tolist()
            first = space.start.ravel().tolist()
            return [f"*(numpy.eye(n)[i] for n, i in zip({counts}, numpy.ravel({code}) - {first}))"]
    return [f"numpy.ravel({code})"]


_LEARNING = (
    "state = policy.reset()  # once, not for each episode",
    "action, state = policy.predict(obs, state, episode_start=[True])  # True at an episode's first step",
    "obs, reward, terminated, truncated, _ = env.step(action)",
    "state = policy.observe(state, reward, terminated)  # after each step",
)
_LEARNING_ALONE = (
    "names = [output.name for output in session.get_outputs()]",
    'memory = dict(numpy.load("DIR/memory.npz"))  # once, not for each episode',
    'before = {"reward": numpy.float32([reward]), "terminated": [terminated], "begins": [begins]}',
    'outputs = dict(zip(names, session.run(names, {"obs": vector[None], **before, **memory})))',
    'action = outputs["action"][0]',
    'memory = {name: outputs[f"next_{name}"] for name in memory}',
)


def _how_it_learns(description: dict[str, Any]) -> str:
    """What whoever runs a policy that learns in its memory has to hand it."""
    remembered = "what it remembers of its adaptation" if description.get("remembers") else "nothing remembered"
    return (
        " This policy learns in its memory, over all episodes of a task, from what it earns: each step takes the "
        "`reward` of the step before, whether that `terminated` the episode, and whether an episode `begins`. Before "
        f"the first step these do not matter. `memory.npz` is where it begins: {remembered}. What comes out as next_… "
        "goes in again at the next step. `last_action` is `action` in the policy's own terms: where something else was "
        "done, put that there. The programs take truth values as arrays of bool (N,)."
    )


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _numbers(value: Any) -> str:
    """A number, or nested lists of numbers, as --task takes them: "0.3,0.2"."""
    if isinstance(value, list):
        return ",".join(_numbers(number) for number in value)
    return f"{value:g}"
