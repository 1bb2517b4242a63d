"""Rewriting by rules: patterns, their matcher, rules, and the engine that applies them."""
