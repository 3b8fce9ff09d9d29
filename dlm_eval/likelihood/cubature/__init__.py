"""Cubature over mask patterns: rules of least variance (rule.py).

design.py chooses the patterns under the prior in prior.py, spread.py tells the standard error, and
nested.py cuts a rule into rounds.
"""
