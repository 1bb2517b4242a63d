"""Rewrites that keep a graph's meaning: clean-up, lifting, folding, layout, fusion."""
