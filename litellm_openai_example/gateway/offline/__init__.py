"""A small OpenAI-like server for a machine without any provider key. No language model is involved."""
