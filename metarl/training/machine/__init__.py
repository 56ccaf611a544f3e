"""What a training takes of the machine: its memory, its graphs, its processes."""
