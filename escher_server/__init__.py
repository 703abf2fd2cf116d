"""The reference Escher server: the whole of ``contract/server.md``, small and honest."""
