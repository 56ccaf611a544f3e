"""Images and videos of what policies do."""
