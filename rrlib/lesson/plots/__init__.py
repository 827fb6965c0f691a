"""The figures, one file a subject: plain functions from numbers to a matplotlib Figure."""
