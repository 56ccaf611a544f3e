"""How to install what is missing, in the words that fit how this project was installed."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""The directory that holds pyproject.toml where the project runs from its source tree."""

CONSTRAINTS = {"metaworld": "constraints-metaworld.txt"}
"""Extra → file of tested versions, where it is not constraints.txt: Meta-World pins an older mujoco."""


def how_to_install(extra: str = "") -> str:
    """The command that installs one of the project's extras, or what every installation has.

    Args:
        extra: name of the optional dependency in pyproject.toml; "" for none.

    Returns:
        For a checkout, the command that is run in it, with the tested versions; else the one for the installed package.
    """
    chosen = f"[{extra}]" if extra else ""
    if not (CHECKOUT / "pyproject.toml").is_file():
        return f"python -m pip install 'metarl-testbed{chosen}'"

    target = f"'.{chosen}'" if extra else "."
    return f"python -m pip install -e {target} -c {CONSTRAINTS.get(extra, 'constraints.txt')}"
