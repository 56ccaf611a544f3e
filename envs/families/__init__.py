"""One file per family of environments."""
