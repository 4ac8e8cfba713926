"""Serves a GGUF model with llama.cpp's own server, as xllamacpp carries it, on a free port of loopback.

usage: serve.py MODEL.gguf NAME

One server for chat and text completions and embeddings (mean pooling, which OpenAI's shape asks for). It
prints its URL once the model is loaded, and serves until it is killed.
"""

import signal
import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.model_alias = sys.argv[1], sys.argv[2]
parameters.port = 0
parameters.cpuparams.n_threads = 1
parameters.n_ctx = 8192
parameters.n_parallel = 4
parameters.embedding = True
parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
while True:
    signal.pause()
