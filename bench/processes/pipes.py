# Three processes pass a number around through pipes, each adds one. The first
# writes it to the file argv[1] when it comes round: always a multiple of three, or something is lost.
import os
import struct
import sys
import time

path = sys.argv[1]
pipes = [os.pipe() for _ in range(3)]
NUMBER = struct.Struct("<Q")


def hand_on(source, drain):
    while True:
        (n,) = NUMBER.unpack(os.read(source, NUMBER.size))
        time.sleep(0.002)
        os.write(drain, NUMBER.pack(n + 1))


for i in (1, 2):
    if os.fork() == 0:
        hand_on(pipes[i][0], pipes[(i + 1) % 3][1])
os.write(pipes[1][1], NUMBER.pack(1))
while True:
    (n,) = NUMBER.unpack(os.read(pipes[0][0], NUMBER.size))
    with open(path + ".new", "w") as f:
        f.write(str(n))
    os.rename(path + ".new", path)
    os.write(pipes[1][1], NUMBER.pack(n + 1))
