"""The families: one module each, named in checkpoints.yaml."""
