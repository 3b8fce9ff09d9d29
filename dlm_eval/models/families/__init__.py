"""The families, as checkpoints.yaml names them; close relatives share a module."""
