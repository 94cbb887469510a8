"""What the engine needs from outside, as Protocols. The adapters implement them."""
