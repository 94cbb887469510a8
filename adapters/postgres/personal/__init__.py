"""Personal data: sealed beside the log, with its keys and its index."""
