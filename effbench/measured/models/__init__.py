"""Models built around a mechanism (encoder, classifier ...), and the only training loop."""
