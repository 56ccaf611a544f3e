"""A run on disk: configuration, presets, checkpoints, and the learner built from them."""
