"""Public implementations as mechanisms, one library a file: what ours are measured against."""
