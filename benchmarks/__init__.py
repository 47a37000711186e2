"""What Colonnade costs and what it finds, measured: `python -m benchmarks.quality DATA_FOLDER`."""
