"""A LiteLLM gateway on this machine: the real proxy, installed into an environment apart from the user's."""
