"""The workbench: command line, training, evaluation and run directories."""

import envs  # noqa: F401 (registers the Gymnasium environments)
