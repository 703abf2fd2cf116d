"""The Escher server's client: its calls, transfers by pre-signed URLs, and the agent link."""
