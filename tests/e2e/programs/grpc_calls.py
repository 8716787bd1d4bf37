"""All four kinds of calls, their trailers, an error with its details, a large message, and a deadline."""

import time

import grpc

channel = grpc.secure_channel(
    "grpc.up.test:443", grpc.ssl_channel_credentials(), [("grpc.max_receive_message_length", -1)]
)


def trailer(call):
    return dict(call.trailing_metadata())["x-trailer"]


answer, call = channel.unary_unary("/test.Echo/Unary").with_call(b"abc", timeout=20)
print(answer, trailer(call), call.code().name)
answer, call = channel.unary_unary("/test.Echo/Unary").with_call(b"x" * 3_000_000, timeout=20)
print(len(answer), trailer(call))
late = []
call = channel.unary_stream("/test.Echo/Down")(b"5", timeout=20)
for message in call:
    late.append(time.time() - float(message.split()[1]))
print(len(late), "at once" if max(late) < 0.15 else late, trailer(call))
answer, call = channel.stream_unary("/test.Echo/Up").with_call(iter([b"x" * 100_000] * 50), timeout=20)
print(answer, trailer(call))


def conversation():
    """Each message is sent when the answer to the one before it has come."""
    for number in range(20):
        yield b"%d" % number
        while len(got) <= number:
            time.sleep(0.001)


got = []
call = channel.stream_stream("/test.Echo/Both")(conversation(), timeout=20)
for message in call:
    got.append(message)
print(len(got), got[-1], trailer(call))
try:
    channel.unary_unary("/test.Echo/Fail")(b"", timeout=20)
except grpc.RpcError as error:
    print(error.code().name, error.details(), trailer(error))
