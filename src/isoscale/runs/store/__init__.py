"""The store of finished trials: an SQLite file, what is asked of it, its recovery, and its exports."""
