"""Made-up files for every reader of uploads: `python -m tests.fuzz`."""
