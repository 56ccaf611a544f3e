"""Trained runs and baselines on the same tasks, in the same environment steps."""
