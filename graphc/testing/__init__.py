"""Checks that every operator and every backend must pass, generated from the operators' own declarations."""
