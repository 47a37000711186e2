"""Indexes of other packages, read as they lie on disk: their vectors become our codes, and nothing is encoded again."""
