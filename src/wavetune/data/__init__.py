"""Corpora, prompt templates, partitions over clients and batches; NumPy only."""
