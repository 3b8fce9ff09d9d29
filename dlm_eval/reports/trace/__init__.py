"""Traces of fillings: recorded, or read from samples files; in a terminal or as a web page."""
