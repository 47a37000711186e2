"""Text to token vectors: checkpoints, passages and batches. Knows nothing of indexes beyond their errors and records."""
