"""From the server: resolve, download, verify and cache scripts. Holds what is on disk so far."""
