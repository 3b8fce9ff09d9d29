"""Cubature over mask patterns: rules of least variance (rule.py).

design.py chooses the patterns under the prior in prior.py. spread.py estimates the standard error.
nested.py splits a rule into rounds. kept.py caches rules.
"""
