"""What is said of a finished run: its evaluation, its learning curves, its page."""
