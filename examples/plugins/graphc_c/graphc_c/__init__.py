"""A backend that writes C for fused loops and builds it with the machine's compiler."""
