"""The training loop and everything around it: checkpoints, evaluation, logs."""
