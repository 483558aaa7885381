"""Who does what when: jobs, and the worker that owns them."""
