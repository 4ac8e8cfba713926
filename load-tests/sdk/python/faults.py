"""Lets openai-python, unmodified, meet each fault of a list, and says whether it raised.

After each fault another tenant asks for something that is answered in order. Each line: fault (its number),
raised (whether an error of the SDK's came, or of the HTTP client below it, and not one of this script's), what (the error, or the text that was taken for whole), next
(what the other tenant got).
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import openai

try:
    import httpx2 as http_client
except ImportError:
    import httpx as http_client

ERRORS = (openai.OpenAIError, http_client.HTTPError)
AT_ONCE = 8
MESSAGES = [{"role": "user", "content": "hello"}]

with open(os.environ["LIUTONG_FAULTS"]) as file:
    listed = json.load(file)
# Not its own limits are to end the wait.
client = openai.OpenAI(max_retries=0, timeout=60)
other = client.with_options(api_key=os.environ["LIUTONG_OTHER_KEY"])


def meet(fault):
    options = {"stream_options": {"include_usage": True}} if fault["usage"] else {}
    answer = client.chat.completions.create(
        model=fault["model"],
        messages=MESSAGES,
        stream=fault["stream"],
        extra_body={"script": fault["script"]},
        **options,
    )
    if not fault["stream"]:
        return answer.choices[0].message.content
    return "".join(choice.delta.content or "" for event in answer for choice in event.choices)


def judge(number):
    try:
        raised, what = False, meet(listed["faults"][number])
    except Exception as error:
        raised, what = isinstance(error, ERRORS), repr(error)
    try:
        sound = {"script": listed["sound"]}
        answer = other.chat.completions.create(model="small", messages=MESSAGES, extra_body=sound)
        following = answer.choices[0].message.content
    except ERRORS as error:
        following = repr(error)
    return {"fault": number, "raised": raised, "what": what, "next": following}


with ThreadPoolExecutor(AT_ONCE) as pool:
    for line in pool.map(judge, range(len(listed["faults"]))):
        print(json.dumps(line), flush=True)
