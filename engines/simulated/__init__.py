"""An engine without a model: vLLM's wire, a scripted load time, memory and pace, and faults on demand.

It is for tests, benchmarks and trying out a configuration. Start it with `python -m engines.simulated --help`.
"""
