"""Recurrent units: one step, and whole sequences with their derivatives written out."""
