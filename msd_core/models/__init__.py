"""The host's models as the core sees them: which layers attend to text, in which order."""
