"""Measurements on a GPU; see measure.sh."""
