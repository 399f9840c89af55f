"""What runs inside an engine's own environment; it imports nothing of the control plane."""
