"""What is logged of a run, and where it is shown."""
