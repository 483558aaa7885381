"""The relay: a server that runs deep research durably, and the helper that talks to it."""
