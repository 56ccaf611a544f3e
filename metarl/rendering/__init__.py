"""Pictures and films of what policies do."""
