"""One job, as this process knows it."""
