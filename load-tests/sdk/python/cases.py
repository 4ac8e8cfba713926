"""What every client of the tests is made to do, and how it says what came of it.

The name of a case is the model that it asks for; the upstream answers accordingly. Each case prints one line
of JSON: case, told (the token counts that the client shows, null if it shows none), text, tools (name and
arguments of the calls that the answer asks for), failed (status, code and kind of the error raised), took_ms.
"""

import json
import time

QUESTION = "Name a river in Asia."
TOOL = {
    "type": "function",
    "function": {
        "name": "longest_river",
        "description": "The longest river of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
# How long the client of the case `slow` waits.
PATIENCE_S = 0.4


def show(case, began, told=None, text="", tools=(), failed=None):
    took_ms = int((time.monotonic() - began) * 1000)
    line = {"case": case, "told": told, "text": text, "tools": list(tools), "failed": failed, "took_ms": took_ms}
    print(json.dumps(line), flush=True)


async def run(case, doing):
    """Awaits what a case does, and shows what it returned or raised."""
    began = time.monotonic()
    try:
        show(case, began, **await doing)
    except Exception as error:
        failed = {
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None),
            "kind": type(error).__name__,
        }
        show(case, began, failed=failed)
