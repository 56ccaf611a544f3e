"""Environments of other packages: their tasks, processes, spaces."""
