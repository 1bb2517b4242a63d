"""Rewrites that trade exactness for speed and memory: narrower floats."""
