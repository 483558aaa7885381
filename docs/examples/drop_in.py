"""An OpenAI program for a LiteLLM gateway: only the import differs."""

from litellm_openai_example import LiteLLM as OpenAI

client = OpenAI()
stream = client.chat.completions.create(
    model="gpt-6-luna",
    messages=[{"role": "user", "content": "Reply with exactly: OK"}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
