"""Operators in Triton: what runs where the library has no CUDA code for a device.

A fallback: one simple kernel a level and pass, nothing tuned. No size is part of what a kernel is
compiled for: images of a new size do not compile anew.
"""
