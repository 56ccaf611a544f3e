"""The model trainer: the loop of meta-iterations and all that a run needs while it trains."""
