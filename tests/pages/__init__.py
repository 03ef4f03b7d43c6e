"""Pages without a browser: what they say, and how it is found."""
