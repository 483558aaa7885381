"""The official OpenAI SDK on a LiteLLM gateway."""
