"""What the engine needs from outside, as protocols. Adapters satisfy them."""
