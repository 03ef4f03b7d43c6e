"""meristem grows trained neural networks without changing what they compute."""
