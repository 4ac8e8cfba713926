"""The cases with the command `llm`, unmodified: what it can do of them."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from cases import QUESTION, run

LLM = Path(sys.executable).with_name("llm")
MODELS = ["chat", "stream-usage", "tools-stream", "unknown-model", "limited", "busy", "hopeless", "broken", "broken-stream"]
USER = Path(os.environ["LLM_USER_PATH"])
FUNCTION = 'def longest_river(place: str) -> str:\n    "The longest river of a place."\n    return "Yangtze"'


class Refused(Exception):
    """What `llm` says before it ends with an error: "Error: Error code: 404 - The model does not exist"."""

    def __init__(self, said):
        super().__init__(said)
        status = re.search(r"Error code: (\d+)", said)
        self.status_code = int(status[1]) if status else None


def configure():
    base_url = os.environ["LIUTONG_ORIGIN"] + "/v1"
    entry = "- model_id: {0}\n  model_name: {0}\n  api_base: {1}\n  api_key_name: liutong\n  supports_tools: true\n"
    models = "".join(entry.format(model, base_url) for model in MODELS)
    (USER / "extra-openai-models.yaml").write_text(models)
    (USER / "keys.json").write_text(json.dumps({"liutong": os.environ["OPENAI_API_KEY"]}))


async def ask(model, *more):
    command = [LLM, "-m", model, "-u", "-o", "max_tokens", "16", *more, QUESTION]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise Refused(ended.stderr)
    # The last line of what it says aside: "Token usage: 5 input, 16 output, {...}".
    words = ended.stderr.strip().splitlines()[-1].replace(",", "").split()
    told = None
    if words[:2] == ["Token", "usage:"]:
        told = {"prompt_tokens": int(words[2]), "completion_tokens": int(words[4])}
    return {"told": told, "text": ended.stdout.strip()}


async def main():
    configure()
    await run("chat", ask("chat", "--no-stream"))
    await run("stream-usage", ask("stream-usage"))
    await run("tools-stream", ask("tools-stream", "--functions", FUNCTION))
    await run("unknown-model", ask("unknown-model", "--no-stream"))
    await run("unknown-key", ask("chat", "--key", "wrong"))
    for model in ["limited", "busy", "hopeless", "broken"]:
        await run(model, ask(model, "--no-stream"))
    await run("broken-stream", ask("broken-stream"))


asyncio.run(main())
