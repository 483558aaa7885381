"""The relay: a server that runs deep research through a LiteLLM gateway."""
