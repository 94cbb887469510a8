"""The console: server-rendered pages over the same handlers, ledger and keys as the HTTP API."""
