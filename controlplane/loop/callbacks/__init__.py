"""Callbacks: due deliveries from the outbox to their receivers, at least once, none of them in another's way."""
