"""A LiteLLM gateway on this machine, for one that has none: the real proxy, in an environment of its own."""
