"""Run research at a relay and print the report with its sources. The same question finds the same run again."""

import hashlib
import sys

from litellm_openai_example import RelayClient, ResearchRunningError

question = sys.argv[1] if len(sys.argv) > 1 else "How did jajangmyeon come to Korea?"
key = hashlib.sha256(question.encode()).hexdigest()  # a relay bills a key only once

with RelayClient() as relay:  # RELAY_BASE_URL, RELAY_API_KEY
    started = relay.invoke({"research_question": question, "background": True}, idempotency_key=key)
    try:
        ended = relay.wait(started.invocation_id, started.invocation_token, timeout=900)
    except ResearchRunningError as error:
        sys.exit(f"still running: {error.invocation_id}")
    print(ended.output_text)
    for source in ended.sources:
        print(f"- {source.title}: {source.url}")
    print(f"cost: {ended.cost_usd} USD", file=sys.stderr)
