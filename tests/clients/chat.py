"""A client in another language: asks one question over gRPC with stubs generated from proto/, prints what it got as JSON.

Usage: chat.py PROTO_DIR ADDRESS < request.json

The request: {"parts": [{"text": ...} | {"picture": PATH}], "sampling": {...}, "stop": {...}, "prompt": {...}, "timeout": s}.
The answer: {"events": [...], "text": ..., "token_ids": [...], "finish_reason": ..., "usage": {...}} or {"error": {...}}.
"""

import importlib
import json
import sys
import tempfile

import grpc
from google.protobuf import json_format
from grpc_tools import protoc


def generate(proto_dir):
    out = tempfile.mkdtemp(prefix="inkstone-stubs-")
    status = protoc.main(
        ["protoc", f"-I{proto_dir}", f"--python_out={out}", f"--grpc_python_out={out}", "inkstone/v1/chat.proto"]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")
    sys.path.insert(0, out)
    return importlib.import_module("inkstone.v1.chat_pb2"), importlib.import_module("inkstone.v1.chat_pb2_grpc")


def build_request(chat_pb2, asked):
    parts = []
    for part in asked["parts"]:
        if "text" in part:
            parts.append(chat_pb2.ContentPart(text=part["text"]))
        else:
            with open(part["picture"], "rb") as file:
                parts.append(chat_pb2.ContentPart(picture=chat_pb2.Picture(data=file.read())))
    request = chat_pb2.ChatRequest(messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=parts)])
    for name in ("sampling", "stop", "prompt"):
        json_format.ParseDict(asked.get(name, {}), getattr(request, name))
    return request


def main():
    chat_pb2, chat_pb2_grpc = generate(sys.argv[1])
    asked = json.load(sys.stdin)
    answer = {"events": [], "text": "", "token_ids": []}
    with grpc.insecure_channel(sys.argv[2]) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        try:
            for response in stub.Chat(build_request(chat_pb2, asked), timeout=asked.get("timeout", 120)):
                event = response.WhichOneof("event")
                answer["events"].append(event)
                if event == "started":
                    answer["prompt_tokens"] = response.started.prompt_tokens
                    answer["picture_tokens"] = response.started.picture_tokens
                elif event == "delta":
                    answer["text"] += response.delta.text
                    answer["token_ids"].extend(response.delta.token_ids)
                else:
                    finished = response.finished
                    answer["finish_reason"] = chat_pb2.FinishReason.Name(finished.reason)
                    answer["completion_tokens"] = finished.usage.completion_tokens
        except grpc.RpcError as error:
            answer["error"] = {"code": error.code().name, "message": error.details()}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
