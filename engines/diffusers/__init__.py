"""The diffusers engine: an HTTP server around diffusion pipelines that batches denoising steps across requests.

Runs in an environment of its own. `wire`, `options` and `jobs` import nothing of the ML world; adapters may use them.
"""
