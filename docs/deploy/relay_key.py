"""Create the relay's virtual key at LiteLLM, which has its own spend and budget and, unlike the master key, no rights.

compose.yaml runs this each time it starts. A key that exists is left alone, with the budget and the models that it was
given since. LITELLM_BASE_URL, LITELLM_MASTER_KEY and LITELLM_RELAY_KEY come from the environment.
"""

import json
import os
import sys
import urllib.error
import urllib.request


def status(path: str, key: str, body: object = None) -> int:
    """Return the status of a GET, or of a POST if there is a body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["LITELLM_BASE_URL"] + path, data, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        sys.exit("LiteLLM cannot be reached at LITELLM_BASE_URL")


key = os.environ["LITELLM_RELAY_KEY"]
if not key.startswith("sk-") or len(key) < 16:  # LiteLLM's own rule
    print('LITELLM_RELAY_KEY must start with "sk-" and have 16 characters', file=sys.stderr)
    sys.exit(2)
if status("/v1/models", key) != 200:
    # The end of the key in its alias: LiteLLM allows an alias once, and shows this much of a key anyway.
    made = status(
        "/key/generate", os.environ["LITELLM_MASTER_KEY"], {"key": key, "key_alias": f"litellm-relay-{key[-4:]}"}
    )
    if made != 200:
        sys.exit(f"LiteLLM answers {made} to /key/generate: see its log")
