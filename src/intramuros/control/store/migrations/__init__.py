"""Schema migrations, run through ``store/migrate.py``."""
