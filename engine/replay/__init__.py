"""What a history shows: its decisions made again, compared, and asked what if. Pure; nothing here reaches the network."""
