"""Scripts: resolve them, download and verify them, keep them in the cache."""
