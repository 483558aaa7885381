"""`python -m litellm_openai_example` is the command line."""

from .cli.main import main

if __name__ == "__main__":
    main()
