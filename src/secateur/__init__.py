"""secateur makes trained PyTorch networks really smaller and really faster, and proves it."""
