"""One file is one pass: which dimensions it grows, how, and when it refuses."""
