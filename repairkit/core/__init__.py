"""The nouns: frozen dataclasses and protocols; numpy only."""
