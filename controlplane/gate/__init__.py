"""The Docker gate: stands between the control plane and the Docker socket, and lets through only what it needs.

Runs in a container of its own, the only one that holds the socket. Whoever takes over the control plane can start and
stop engines, and nothing else.
"""
