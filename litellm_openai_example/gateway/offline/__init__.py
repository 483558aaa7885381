"""A small server that speaks the OpenAI API, for a machine without a provider key. No language model is involved."""
