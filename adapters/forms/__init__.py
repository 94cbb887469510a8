"""How commands, HTTP API and pages show the engine's values: the same JSON, the same CSV and the same sentences."""
