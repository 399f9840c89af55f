"""The doctor: looks at a host once, and says what is missing or surprising, with the remedy."""
