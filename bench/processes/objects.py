# Counts in the file argv[1] and keeps argv[2] MiB of live objects, each of
# which holds what its number and its version say. While the file argv[1].change
# is there, it has how many of them to change: they become the next version. argv[1].check asks for a check of all.
import os
import sys
import time

path, megabytes = sys.argv[1], int(sys.argv[2])
SIZE = 4096
count = megabytes << 20 >> 12
versions = [0] * count


def content(i, version):
    line = b"object %d, version %d, %d; " % (i, version, (i * 2654435761 + version * 40503) % 1000003)
    return (line * (SIZE // len(line) + 1))[:SIZE]


def tell(name, text):
    with open(name + ".new", "w") as f:
        f.write(text)
    os.rename(name + ".new", name)


def asked(name):
    try:
        with open(name) as f:
            return f.read()
    except FileNotFoundError:
        return None


objects = [bytearray(content(i, 0)) for i in range(count)]
at, ticks = 0, 0
while True:
    ticks += 1
    tell(path, str(ticks))
    change = asked(path + ".change")
    if change:
        for _ in range(int(change)):
            at = (at + 1) % count
            versions[at] += 1
            objects[at][:] = content(at, versions[at])
        os.unlink(path + ".change")
    if asked(path + ".check") is not None:
        wrong = sum(objects[i] != content(i, versions[i]) for i in range(count))
        os.unlink(path + ".check")
        tell(path + ".checked", "%d wrong of %d, %d changes" % (wrong, count, sum(versions)))
    time.sleep(0.01)
