"""What a forward pass computes: its trace, its residual branches, and the role of every parameter in it."""
