"""Scoring functions that task YAMLs name with ``!function``: one module per benchmark."""
