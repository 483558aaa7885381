"""`python -m litellm_openai_example.mcp`: see `server.main`."""

from .server import main

if __name__ == "__main__":
    main()
