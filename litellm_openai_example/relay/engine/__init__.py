"""The engine: the worker of a process and its jobs, one for each invocation that it runs."""
