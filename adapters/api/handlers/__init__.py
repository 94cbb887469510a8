"""One module for each group of routes. Handlers import the engine and the forms only."""
