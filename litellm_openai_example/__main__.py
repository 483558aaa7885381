"""The command, as `python -m litellm_openai_example`."""

from .cli.main import main

if __name__ == "__main__":
    main()
