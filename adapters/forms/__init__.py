"""How the commands and the HTTP API show the engine's values: the same JSON and the same CSV from both."""
