"""The HTTP API: a table of routes, handlers without a web framework, and two thin adapters (aiohttp and ASGI)."""
