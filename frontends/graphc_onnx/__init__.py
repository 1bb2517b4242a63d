"""ONNX models as graphc graphs."""
