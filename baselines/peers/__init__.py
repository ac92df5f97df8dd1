"""Public implementations as mechanisms, one library per file; ours are compared with them."""
