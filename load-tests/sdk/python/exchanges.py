"""Talks to Liutong with openai-python, unmodified, and prints one line of JSON for each exchange.

Each line: name, request_id, usage (as the SDK shows it, null if it shows none), events (of a stream), empty
(events without choices), text.
"""

import json
import os

import openai

CHAT = os.environ["LIUTONG_CHAT"]
EMBED = os.environ["LIUTONG_EMBED"]
MESSAGES = [{"role": "user", "content": "Name a river in Asia."}]
PROMPT = "The longest river in Asia is"

client = openai.OpenAI(max_retries=0)


def show(name, request_id, usage=None, **more):
    usage = usage.model_dump() if usage is not None else None
    print(json.dumps({"name": name, "request_id": request_id, "usage": usage, **more}), flush=True)


def whole(name, answer, text):
    show(name, answer._request_id, answer.usage, text=text)


def streamed(name, stream, text_of):
    usage, events, empty, text = None, 0, 0, ""
    for event in stream:
        events += 1
        usage = event.usage or usage
        if event.choices:
            text += text_of(event.choices[0]) or ""
        else:
            empty += 1
    show(name, stream.response.headers.get("x-request-id"), usage, events=events, empty=empty, text=text)


def chat(**more):
    return client.chat.completions.create(model=CHAT, messages=MESSAGES, max_tokens=16, temperature=0, **more)


def complete(**more):
    return client.completions.create(model=CHAT, prompt=PROMPT, max_tokens=16, temperature=0, **more)


answer = chat()
whole("chat", answer, answer.choices[0].message.content)
streamed("chat_stream", chat(stream=True), lambda choice: choice.delta.content)
streamed(
    "chat_stream_usage",
    chat(stream=True, stream_options={"include_usage": True}),
    lambda choice: choice.delta.content,
)
answer = complete()
whole("completion", answer, answer.choices[0].text)
streamed("completion_stream", complete(stream=True), lambda choice: choice.text)
streamed(
    "completion_stream_usage",
    complete(stream=True, stream_options={"include_usage": True}),
    lambda choice: choice.text,
)
answer = client.embeddings.create(model=EMBED, input=["a river in Asia", "a lake"])
whole("embedding", answer, str(len(answer.data)))
models = client.models.list()
show("models", models._request_id, models=[model.id for model in models.data])
model = client.models.retrieve(CHAT)
show("model", model._request_id, models=[model.id])
try:
    client.chat.completions.create(model="no-such-model", messages=MESSAGES)
except openai.NotFoundError as error:
    show("unknown_model", error.request_id, code=error.code, type=error.type)
try:
    client.with_options(api_key="wrong").models.list()
except openai.AuthenticationError as error:
    show("unknown_key", error.request_id, code=error.code, type=error.type)
