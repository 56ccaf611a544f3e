"""The model generator: a specialised policy for one new task, and its export."""
