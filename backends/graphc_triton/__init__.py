"""NVIDIA GPUs: fused loops as Triton source, compiled ahead of time, launched as one CUDA graph."""
