"""The SDK's types are the same when their import is deferred to the first use."""

from __future__ import annotations

import json
import subprocess
import sys

_INVENTORY = """
import importlib, json, pkgutil, sys

def kind(value):
    return f"{type(value).__module__}.{type(value).__qualname__} {getattr(value, '__module__', '')} " \\
        f"{getattr(value, '__qualname__', '') or str(value)[:200]}"

def inventory():
    import openai.types
    names = ["openai.types", *(m.name for m in pkgutil.walk_packages(openai.types.__path__, "openai.types."))]
    found = {}
    for name in names:
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            found[name] = {key: kind(getattr(module, key)) for key in dir(module) if not key.startswith("__")}
            found[name]["loader"] = type(module.__loader__).__name__ + type(module.__spec__.loader).__name__
    return found
"""


def python(code: str) -> str:
    command = [sys.executable, "-X", "faulthandler", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_name_is_unchanged() -> None:
    eager = json.loads(python(_INVENTORY + "import openai\nprint(json.dumps(inventory()))"))
    late = json.loads(
        python(
            _INVENTORY
            + """
from litellm_openai_example.late_types import late_types
with late_types():
    import openai
assert not hasattr(sys.meta_path[0], "late") and len(sys.meta_path) == before
print(json.dumps(inventory()))
""".replace("with late_types", "before = len(sys.meta_path)\nwith late_types")
        )
    )
    assert sum(map(len, eager.values())) > 1500
    assert late == eager


def test_types_load_on_first_use_from_many_threads() -> None:
    count = "sum(name.startswith('openai.types.') for name in sys.modules)"
    eager = int(python(f"import sys, openai\nprint({count})"))
    late = python(
        f"loaded = lambda: {count}"
        """
import sys, importlib, threading
from litellm_openai_example.late_types import late_types
with late_types():
    import openai
print(loaded(), 'openai.lib.streaming._assistants' in sys.modules)
uses = [
    lambda: openai.types.Model,
    lambda: openai.types.responses.Response,
    lambda: openai.types.chat.ChatCompletion,
    lambda: importlib.import_module("openai.types.chat.chat_completion").ChatCompletion,
    lambda: importlib.import_module("openai.types.responses.response").Response,
    lambda: importlib.import_module("openai.resources.responses").Responses,
    lambda: openai.types.shared.Reasoning,
    lambda: importlib.import_module("openai.types.beta").Thread,
]
start, results, failures = threading.Barrier(len(uses) * 4), {}, []
def use(number):
    start.wait()
    try:
        results[number] = uses[number % len(uses)]()
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(len(uses) * 4)]
sys.setswitchinterval(1e-5)
for thread in threads: thread.start()
for thread in threads: thread.join(60)
assert not failures, failures
assert len(results) == len(threads), "a thread hangs"
for number, result in results.items():
    assert result is results[number % len(uses)]
assert results[1] is results[4] and results[2] is results[3]
try:
    openai.types.NoSuchName
except AttributeError as error:
    assert "NoSuchName" in str(error)
else:
    raise AssertionError
"""
    )
    loaded, helpers = late.split()
    assert eager - int(loaded) > 300
    # Older releases import their helpers for assistants, and those use many types.
    assert int(loaded) < 120 or helpers == "True"


def test_a_failed_first_use_can_be_repeated() -> None:
    python(
        """
import sys
from litellm_openai_example.late_types import late_types
with late_types():
    import openai
sys.modules["openai.types.batch"] = None  # its import fails
for _ in range(2):
    try:
        openai.types.Batch
    except ImportError:
        pass
    else:
        raise AssertionError
del sys.modules["openai.types.batch"]
assert openai.types.Batch.__name__ == "Batch"
"""
    )


def test_without_the_packages_nothing_changes() -> None:
    python(
        """
from litellm_openai_example import late_types
late_types._TYPES = "openai.moved"
with late_types.late_types():
    import openai
assert openai.types.Model.__name__ == "Model"
"""
    )
