"""Trained rerankers as adapters, a folder each, as `rrlib pack` writes them.

`package:rrlib.checkpoints/NAME` is a model; `rrlib doctor` lists them.
"""
