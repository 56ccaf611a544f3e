"""What an environment does before anything is trained on it: its shapes, its tasks, its randomness, its numbers."""
