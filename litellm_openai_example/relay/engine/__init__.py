"""The engine: jobs, each of which runs one invocation, and the worker that owns them."""
