"""Text to token vectors: checkpoints, passages and batches. Of an index it knows errors and records only."""
