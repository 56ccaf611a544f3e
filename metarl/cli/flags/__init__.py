"""Flags: how they are read, which are shared, and how their values are written."""
