"""The Python API of the workbench.

`metarl.train(AGENT, ENV, …)` trains and gives a `Run`; `metarl.Run(RUN)` opens one that is there, and
`metarl.compare(RUNS)` compares. `metarl.load(RUN)` loads a trained run, ready to adapt to a task.
`metarl.load_policy(DIR)` loads a policy that was adapted. What they need is imported at the first use, so
`import metarl.envs` imports nothing of the floors above it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.api.workbench import Run, compare, train
    from metarl.deployment.meta_policy import MetaPolicy, load
    from metarl.deployment.policy import SpecialisedPolicy, load_policy

__all__ = ["MetaPolicy", "Run", "SpecialisedPolicy", "compare", "load", "load_policy", "train"]

_MODULES = {
    "MetaPolicy": "metarl.deployment.meta_policy",
    "Run": "metarl.api.workbench",
    "SpecialisedPolicy": "metarl.deployment.policy",
    "compare": "metarl.api.workbench",
    "load": "metarl.deployment.meta_policy",
    "load_policy": "metarl.deployment.policy",
    "train": "metarl.api.workbench",
}
"""Name → the module that defines it."""


def __getattr__(name: str) -> Any:
    """Import a name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The names of the Python API."""
    return sorted([*globals(), *__all__])
