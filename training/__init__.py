"""What is learned on batches that the caller gives."""
