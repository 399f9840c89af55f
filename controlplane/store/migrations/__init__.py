"""Alembic's folder: one module per schema change, oldest first, never edited after a release."""
