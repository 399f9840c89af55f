"""Stand-ins for the ports, for tests of the loop. Each passes the contract suite of the real thing."""
