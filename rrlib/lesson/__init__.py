"""The lesson: what the notebooks show. Figures, frames, tables, widgets, student copies."""
