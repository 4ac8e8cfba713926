"""The cases with LangChain's ChatOpenAI and OpenAIEmbeddings, unmodified."""

import asyncio
import os

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from cases import PATIENCE_S, QUESTION, TOOL, run

BASE_URL = os.environ["LIUTONG_ORIGIN"] + "/v1"


def chat(model, **more):
    return ChatOpenAI(model=model, base_url=BASE_URL, max_tokens=16, **more)


def counts(message):
    usage = message.usage_metadata
    if not usage:
        return None
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
    }


def shown(message):
    tools = [[call["name"], call["args"]] for call in message.tool_calls]
    return {"told": counts(message), "text": message.content, "tools": tools}


async def whole(model, tools=None, **more):
    asked = chat(model, **more)
    return shown(await (asked.bind_tools(tools) if tools else asked).ainvoke(QUESTION))


async def streamed(model, tools=None, **more):
    asked, message = chat(model, **more), None
    async for chunk in (asked.bind_tools(tools) if tools else asked).astream(QUESTION):
        message = chunk if message is None else message + chunk
    return shown(message)


async def embedded(model):
    # Tokens instead of text would need a table from the Internet.
    asked = OpenAIEmbeddings(model=model, base_url=BASE_URL, check_embedding_ctx_length=False)
    return {"text": str(await asked.aembed_documents(["a river in Asia", "a lake"]))}


async def cancelled(model):
    stream = chat(model).astream(QUESTION)
    async for _ in stream:
        break
    await stream.aclose()
    return {"text": "left"}


async def main():
    await run("chat", whole("chat"))
    await run("stream", streamed("stream"))
    await run("stream-usage", streamed("stream-usage", stream_usage=True))
    await run("tools", whole("tools", tools=[TOOL]))
    await run("tools-stream", streamed("tools-stream", tools=[TOOL]))
    await run("embeddings", embedded("embeddings"))
    await run("unknown-model", whole("unknown-model"))
    await run("unknown-key", whole("chat", api_key="wrong"))
    for model in ["limited", "busy", "hopeless", "broken"]:
        await run(model, whole(model))
    await run("broken-stream", streamed("broken-stream"))
    await run("slow", whole("slow", timeout=PATIENCE_S, max_retries=0))
    await run("cancelled", cancelled("cancelled"))


asyncio.run(main())
