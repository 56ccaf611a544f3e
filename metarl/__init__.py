"""The workbench: command line, training, evaluation and run directories."""
