"""The cases with openai-python, unmodified; the argument says which of its clients."""

import asyncio
import inspect
import os
import sys

import openai

from cases import PATIENCE_S, QUESTION, TOOL, run

KEY = os.environ["OPENAI_API_KEY"]
ORIGIN = os.environ["LIUTONG_ORIGIN"]
AZURE = {"azure_endpoint": ORIGIN, "api_version": "2024-10-21", "api_key": KEY}
# `azure-v1` is how Azure wants the plain client used since it has dropped versions.
CLIENTS = {
    "sync": lambda: openai.OpenAI(base_url=f"{ORIGIN}/v1"),
    "async": lambda: openai.AsyncOpenAI(base_url=f"{ORIGIN}/v1"),
    "azure": lambda: openai.AzureOpenAI(**AZURE),
    "azure-async": lambda: openai.AsyncAzureOpenAI(**AZURE),
    "azure-v1": lambda: openai.OpenAI(base_url=f"{ORIGIN}/openai/v1/"),
}
client = CLIENTS[sys.argv[1]]()


async def done(value):
    return await value if inspect.isawaitable(value) else value


async def each(stream):
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            yield event
    else:
        for event in stream:
            yield event


def create(model, client=client, **more):
    messages = [{"role": "user", "content": QUESTION}]
    return done(client.chat.completions.create(model=model, messages=messages, max_tokens=16, **more))


def counts(usage):
    return usage and usage.model_dump()


async def whole(model, **more):
    answer = await create(model, **more)
    message = answer.choices[0].message
    tools = [[call.function.name, call.function.arguments] for call in message.tool_calls or []]
    return {"told": counts(answer.usage), "text": message.content or "", "tools": tools}


async def streamed(model, **more):
    told, text, tools = None, "", []
    async for event in each(await create(model, stream=True, **more)):
        told = counts(event.usage) or told
        for choice in event.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                if call.function.name:
                    tools.append([call.function.name, ""])
                tools[-1][1] += call.function.arguments or ""
    return {"told": told, "text": text, "tools": tools}


async def embedded(model):
    answer = await done(client.embeddings.create(model=model, input=["a river in Asia", "a lake"]))
    return {"told": counts(answer.usage), "text": str([item.embedding for item in answer.data])}


async def cancelled(model):
    stream = await create(model, stream=True)
    async for _ in each(stream):
        break
    await done(stream.close())
    return {"text": "left"}


async def main():
    await run("chat", whole("chat"))
    await run("stream", streamed("stream"))
    await run("stream-usage", streamed("stream-usage", stream_options={"include_usage": True}))
    await run("tools", whole("tools", tools=[TOOL]))
    await run("tools-stream", streamed("tools-stream", tools=[TOOL]))
    await run("embeddings", embedded("embeddings"))
    await run("unknown-model", whole("unknown-model"))
    await run("unknown-key", whole("chat", client=client.with_options(api_key="wrong")))
    for model in ["limited", "busy", "hopeless", "broken"]:
        await run(model, whole(model))
    await run("broken-stream", streamed("broken-stream"))
    await run("slow", whole("slow", client=client.with_options(timeout=PATIENCE_S, max_retries=0)))
    await run("cancelled", cancelled("cancelled"))


asyncio.run(main())
