"""The agent of a user's own that stands in agents/README.md."""

import importlib
import re
import sys
from pathlib import Path

from metarl.agents.learner import Agent

PAGE = Path(__file__).parents[2] / "agents" / "README.md"
MODULE = "my_agents"
NAME = f"{MODULE}:MyAgent"


def source() -> str:
    """The whole file, as the page has it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (found,) = [block for block in blocks if "class MyLearner" in block]
    return str(found)


def write(directory: Path) -> None:
    """Write it where a user would have it."""
    (directory / f"{MODULE}.py").write_text(source(), encoding="utf-8")


def load(directory: Path) -> Agent:
    """The agent, imported from a directory, which is left out of the path again."""
    write(directory)
    sys.path.insert(0, str(directory))
    try:
        importlib.invalidate_caches()
        sys.modules.pop(MODULE, None)
        agent = importlib.import_module(MODULE).MyAgent
    finally:
        sys.path.remove(str(directory))
    assert isinstance(agent, Agent)
    return agent
