"""The store of finished trials: an SQLite file, its upkeep, its rescue, and its exports."""
