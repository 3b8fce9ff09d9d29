"""Published samplers of masked models, one file each.

Every module here is found by itself: a new sampler is a new file, and its presets are entries of
`presets.yaml`. The docstring of its class names the paper, and the authors' code where it was read.
"""
