"""Operators in Triton: what runs where the library has no CUDA code for a device."""
