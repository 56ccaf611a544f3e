"""The model card of a specialised policy as Markdown, from the same data as its JSON."""

from typing import Any

CURVE_HEADINGS = ("adaptation step", "episodes", "env steps", "mean return", "std over episodes")


def markdown(description: dict[str, Any]) -> str:
    """The card: task, returns, steps, how to run it, parent run, versions.

    Args:
        description: what policy.json holds.
    """
    parent = description["parent"]
    sections = [
        f"# {parent['agent']} adapted to {title(description)}",
        "A policy for one task, made by `metarl adapt`. The same data for machines: `policy.json`.",
        "## How well it does",
        _table(CURVE_HEADINGS, curve_rows(description)),
        " ".join(summary(description)),
        "## How to run it",
        _usage(description),
        "## Spaces",
        f"Observations {_short(description['observation_space'])}, flattened to float32 vectors as "
        f"`gymnasium.spaces.utils.flatten` does; actions {_short(description['action_space'])}; "
        f"horizon {description['horizon']} steps.",
        "## Parent",
        _table(("", ""), [(name.replace("_", " "), str(value)) for name, value in parent.items()]),
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in description["versions"].items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def curve_rows(description: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns after k = 0 … K adaptation steps, as text below CURVE_HEADINGS."""
    curve = description["adaptation"]
    columns = (curve[name] for name in ("episodes", "env_steps", "return_mean", "return_std"))
    return [
        (str(k), str(episodes), f"{steps:,}", f"{mean:.2f}", f"{std:.2f}")
        for k, (episodes, steps, mean, std) in enumerate(zip(*columns, strict=True))
    ]


def title(description: dict[str, Any]) -> str:
    """What the policy is adapted to, e.g. "point-navigation/finn, goal=0.3,0.2"."""
    task = description["task"]
    if task is None:
        return f"{description['env']}"
    values = (f"{name}={_numbers(value)}" for name, value in task.items())
    text = " ".join(values)
    return f"{description['env']}, {text if len(text) <= 100 else text[:100] + '…'}"


def summary(description: dict[str, Any]) -> list[str]:
    """Sentences on what adaptation cost and what the policy earns."""
    adaptation, measured = description["adaptation"], description["deterministic"]
    steps, spent = adaptation["adaptation_env_steps"], adaptation["measurement_env_steps"]
    cost = f"adaptation took {adaptation['adaptation_episodes']} episodes, {steps:,} environment steps"
    lines = [f"{cost} (and {spent:,} to measure the result)." if spent else f"{cost}."]
    if measured is not None:
        episodes = f"mean of {measured['episodes']} episodes, std {measured['return_std']:.2f}"
        lines.append(f"the policy acting deterministically: return {measured['return_mean']:.2f} ({episodes}).")
    return [line[0].upper() + line[1:] for line in lines]


def _usage(description: dict[str, Any]) -> str:
    memory = description["inputs"][1:]
    remembered = (
        f" The memory goes in as {', '.join(memory)}, zeros at the start of an episode, and comes out as "
        f"{', '.join(f'next_{name}' for name in memory)}."
        if memory
        else ""
    )
    difference = description.get("onnx_difference")
    lines = ["```python", "import metarl", "", 'policy = metarl.load_policy("DIR")', "action, _ = policy.predict(obs)"]
    if difference is not None:
        lines += [
            "",
            "import onnxruntime  # or without metarl",
            "",
            'session = onnxruntime.InferenceSession("DIR/policy.onnx")',
            'action = session.run(["action"], {"obs": obs[None]})[0][0]',
        ]
    equal = "" if difference is None else f" ONNX gives the same actions to {difference:.1g}."
    outputs = ", ".join(f"`{name}`" for name in description["outputs"])
    return "\n".join([*lines, "```"]) + (
        f"\n\nOutputs: {outputs}, batched over the first dimension. `action` is deterministic and in the environment's "
        f"units; the others are the policy's own, before clipping and stretching.{equal}{remembered} "
        "`policy.pt2` is the same as a `torch.export` program."
    )


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _short(space: dict[str, Any]) -> str:
    return f"{space['kind']}({', '.join(f'{key}={value}' for key, value in space.items() if key != 'kind')})"


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_numbers(one) for one in value)
    return f"{value:g}"
