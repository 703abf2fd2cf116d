"""See ``sentence_transformers.py`` above this folder."""
