"""Equivariant networks: layers, architectures and model files."""
