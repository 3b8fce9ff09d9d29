"""Cubature over mask patterns: rules of least variance (rule.py), their patterns (design.py) under a prior (prior.py), their
standard error (spread.py), and their rounds (nested.py).
"""
