"""Every operator in plain PyTorch: what the fused backends are tested against."""
