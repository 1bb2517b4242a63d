"""graphc compiles neural networks: a model in, a native program out."""
