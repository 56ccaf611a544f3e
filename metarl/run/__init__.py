"""A run on disk: configuration, presets, checkpoints, and the learner built from them.

To read in this order: find_run (where it lies), config (what can be set), presets (named defaults), run_directory
(what a run writes), build (from a configuration or a run to a learner), checkpoint (the state of training), reproduce
(the command that trains it again), device (where it computes), files (writing them safely).
"""
