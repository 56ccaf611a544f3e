"""The workbench: command line, training, evaluation, adaptation and run directories.

`metarl.load(RUN)` gives a trained run to adapt, `metarl.load_policy(DIR)` a policy that was adapted.
"""

import envs  # noqa: F401 (registers the Gymnasium environments)
from metarl.adapt import MetaPolicy, load
from metarl.specialised_policy import SpecialisedPolicy, load_policy

__all__ = ["MetaPolicy", "SpecialisedPolicy", "load", "load_policy"]
