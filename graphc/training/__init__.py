"""Training: a model, a loss and an optimizer become one graph, compiled like any other."""
