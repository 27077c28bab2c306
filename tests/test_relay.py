"""What a shim's loop does with those who are attached: without a container, on pipes and a pair of sockets."""

import os
import select
import socket

from minidocker.container import stream
from minidocker.container.namespaces import Streams
from minidocker.container.relay import Relay


def test_what_was_typed_before_leaving_is_taken() -> None:
    """Though output waits for the one who has left, and cannot be sent any more."""
    stdin, keyboard = os.pipe()
    screen, stdout = os.pipe()
    script = 'echo output; read line && test "$line" = typed'
    ends = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, file_actions=ends)
    os.close(stdin)
    os.close(stdout)
    ours, theirs = socket.socketpair()
    theirs.sendall(stream.pack(stream.STDIN, b"typed\n"))
    theirs.close()
    relay = Relay(Streams(keyboard, screen, -1), lambda _still: None)
    relay.adopt(ours, attach=True)
    assert select.select([screen], [], [], 10)[0], "the output is there before the loop looks at the one who has left"
    assert relay.serve(pid) == 0
