"""Reverse mode on graphs: a graph in, a graph of its gradients out, of ordinary nodes that differentiate again."""

from __future__ import annotations

from graphc.autodiff.reverse import grad, gradients, value_and_grad

__all__ = ["grad", "gradients", "value_and_grad"]
