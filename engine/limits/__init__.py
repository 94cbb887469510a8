"""What an API bears: the rate limiter, its policy, feedback, quotas and retry arithmetic. Pure."""
