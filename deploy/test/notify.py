"""notify.py BINARY NAME: starts the client with NOTIFY_SOCKET=NAME (a path, or @name for the abstract namespace) and
WATCHDOG_USEC, as systemd does, and reads what it says. Prints a line a check; used by deploy/test/systemd."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

binary, name = sys.argv[1:]
kind = "abstract" if name.startswith("@") else "path"
WATCHDOG_S = 1.0


def check(what, holds, got=""):
    if not holds:
        sys.exit(f"FAILED notify, {kind}: {what}: {got}")
    print(f"ok notify, {kind}: {what}", flush=True)


listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("\0" + name[1:] if kind == "abstract" else name)


def said(within_s):
    """The next datagram's lines, or none in time."""
    listener.settimeout(within_s)
    try:
        return listener.recv(4096).decode().splitlines()
    except TimeoutError:
        return []


def start(**more):
    environment = {
        "PATH": os.environ["PATH"],
        "NOTIFY_SOCKET": name,
        "PORT": "0",
        "HOST": "127.0.0.1",
        "DATA_PATH": data,
        "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        **more,
    }
    return subprocess.Popen([binary, "client"], env=environment, stderr=subprocess.PIPE, text=True)


with tempfile.TemporaryDirectory() as data:
    client = start()
    try:
        first = said(5)
        check("READY=1 is the first word", "READY=1" in first, first)
        line = client.stderr.readline()
        address = next(word for word in line.split() if word.startswith("address=")).split("=")[1]
        with urllib.request.urlopen(f"http://{address}/health", timeout=5) as answer:
            check("it listens when it says so", answer.status == 200)

        times = []
        while len(times) < 5:
            lines = said(WATCHDOG_S)
            check_late = lines == []
            if check_late:
                check("WATCHDOG=1 comes in time", False, f"{len(times)} came, then none for {WATCHDOG_S} s")
            if "WATCHDOG=1" in lines:
                times.append(time.monotonic())
        longest = max(b - a for a, b in zip(times, times[1:]))
        check(f"WATCHDOG=1 comes again and again, {longest:.1f} s apart at the most", longest < WATCHDOG_S, times)

        # A payload that could speak to the service manager could claim anything.
        body = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="run.sh"\r\n\r\n'
            b"#!/bin/sh\nenv | grep -c -e NOTIFY_SOCKET -e WATCHDOG_ >seen.txt; sleep 2\r\n--x--\r\n"
        )
        request = urllib.request.Request(
            f"http://{address}/submit", body, {"Content-Type": "multipart/form-data; boundary=x"}
        )
        urllib.request.urlopen(request, timeout=5).close()
        time.sleep(0.5)
        found = [os.path.join(at, file) for at, _, files in os.walk(data) for file in files if file == "seen.txt"]
        check("a payload sees nothing of it", [open(file).read() for file in found] == ["0\n"], found)

        client.send_signal(signal.SIGTERM)
        stopping = after = 0
        while (lines := said(3)) != []:
            stopping += "STOPPING=1" in lines
            after += bool(stopping) and "WATCHDOG=1" in lines
            if client.poll() is not None and stopping:
                break
        check("STOPPING=1 is said once", stopping == 1, stopping)
        check("WATCHDOG=1 goes on while payloads end", after >= 1, after)
        check("it exits with 0", client.wait(10) == 0, client.returncode)
    finally:
        client.kill()
        client.wait()

    # The watchdog is somebody else's: WATCHDOG_PID names another process.
    client = start(WATCHDOG_PID="1")
    try:
        while "READY=1" not in (lines := said(5)):
            check("READY=1 is said", lines != [], lines)
        late = said(1.5 * WATCHDOG_S)
        check("no WATCHDOG=1 where WATCHDOG_PID names another process", late == [], late)
    finally:
        client.kill()
        client.wait()

    # A manager that is gone is no reason to end.
    listener.close()
    if kind == "path":
        os.unlink(name)
    client = start()
    try:
        line = next(line for line in client.stderr if "client listening" in line)
        address = next(word for word in line.split() if word.startswith("address=")).split("=")[1]
        with urllib.request.urlopen(f"http://{address}/health", timeout=5) as answer:
            check("it serves although nobody listens on the socket", answer.status == 200)
    finally:
        client.kill()
        client.wait()
