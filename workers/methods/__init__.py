"""One file a method, named as its operation: pure functions, tensors in, named tensors out."""
