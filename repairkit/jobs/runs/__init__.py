"""Run folders: who writes into one, what `run.json` records, and how two runs differ."""
