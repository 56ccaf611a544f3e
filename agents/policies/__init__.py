"""Functional policies and their parameters."""
