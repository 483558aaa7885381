"""Submit a long job, and fetch its text later, even from another process.

python background.py submit "Write a long report"    prints the id
python background.py fetch ID                        waits for the text
"""

import sys

from litellm_openai_example import LiteLLMClient, StillRunningError

with LiteLLMClient.from_env(timeout=60) as client:
    match sys.argv[1:]:
        case ["submit", prompt]:
            print(client.respond(prompt, background=True).id)
        case ["fetch", response_id]:
            try:
                print(client.wait(response_id, timeout=600).text)
            except StillRunningError as error:
                sys.exit(f"still running: fetch {error.response_id} again later")
        case _:
            sys.exit(__doc__)
