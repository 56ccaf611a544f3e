"""Objectives, derivatives and steps of policy-gradient learners."""
