"""Runs in the gateway's environment: LiteLLM, for as long as the process that started it lives.

A parent that is killed cannot stop its children. So it holds the other end of a pipe that this process reads: the
end of the file, however it comes about, is the end of the proxy.
"""

import os
import signal
import sys
import threading


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # Uvicorn lets answers that are under way be finished; after this long they are cut, with all that we started.
    threading.Event().wait(5)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    pipe = int(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    sys.argv = ["litellm", *sys.argv[2:]]
    from litellm import run_server  # type: ignore[import-not-found]

    run_server()


if __name__ == "__main__":
    main()
