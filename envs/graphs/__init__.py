"""CUDA graphs: the device repeats recorded work without the host; see README.md."""
