"""The harness: lm-eval's tasks and requests, datasets, our models as lm-eval models, runs and
results.
"""
