"""The work of the Busy guest, one part a process: work.py cache|heap|rows SEED.

Each part fills its memory to a fixed size, makes /run/<part>.ready, and then
changes some of it at a fixed rate, far below what an emulated CPU can do, so
that the memory looks the same on a slow machine as on a fast one.
"""

import base64
import glob
import gzip
import json
import random
import socket
import sqlite3
import sys
import time
import zlib


class Corpus:
    """Real sentences: manual pages, Python's own documentation, licences."""

    def __init__(self, rng):
        pages = sorted(glob.glob("/usr/share/man/man[0-9]/*.gz"))
        texts = [gzip.open(p, "rt", errors="replace").read() for p in rng.sample(pages, 60)]
        for name in [*glob.glob("/usr/lib/python3*/pydoc_data/topics.py"), *glob.glob("/usr/share/common-licenses/*")]:
            with open(name, errors="replace") as f:
                texts.append(f.read())
        self.rng = rng
        self.lines = [" ".join(line.split()) for t in texts for line in t.splitlines() if len(line) > 20]
        self.words = sorted({w for line in self.lines[::7] for w in line.split() if w.isalpha() and len(w) > 3})

    def prose(self, length):
        """About length characters of consecutive lines of one text."""
        at = self.rng.randrange(len(self.lines))
        out = []
        while length > 0:
            line = self.lines[at % len(self.lines)]
            out.append(line)
            length -= len(line)
            at += 1
        return " ".join(out)

    def name(self):
        return self.rng.choice(self.words).lower() + "." + self.rng.choice(self.words).lower()

    def blob(self, size):
        """What pictures and archives look like: bytes that no codec shrinks."""
        return zlib.compress(self.rng.randbytes(size // 2) + self.prose(size // 2).encode())


def ready(part):
    open(f"/run/{part}.ready", "w").close()


def pace(rng, per_second):
    """Sleeps between two operations, irregularly, as requests arrive."""
    time.sleep(min(rng.expovariate(per_second), 1.0))


class Redis:
    def __init__(self, path):
        for _ in range(600):
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                break
            except OSError:
                time.sleep(0.1)
        self.replies = self.sock.makefile("rb")

    def run(self, commands):
        """Sends the commands in one go and reads all of their replies."""
        out = bytearray()
        for command in commands:
            out += b"*%d\r\n" % len(command)
            for arg in command:
                arg = arg if isinstance(arg, bytes) else str(arg).encode()
                out += b"$%d\r\n%s\r\n" % (len(arg), arg)
        self.sock.sendall(out)
        for _ in commands:
            self.reply()

    def reply(self):
        line = self.replies.readline()
        if line[:1] == b"$" and line[1:2] != b"-":
            self.replies.read(int(line[1:]) + 2)
        elif line[:1] == b"*":
            for _ in range(int(line[1:])):
                self.reply()
        elif line[:1] == b"-":
            raise RuntimeError(line.decode())


def cache(rng, corpus):
    """A web application's cache: sessions, rendered articles, thumbnails, logs."""
    redis = Redis("/run/redis.sock")
    keys = 4000

    def value(n):
        kind = n % 10
        if kind == 0:
            return corpus.blob(3000)
        doc = {
            "id": n,
            "user": corpus.name(),
            "token": "%032x" % rng.getrandbits(128),
            "updated": time.time(),
            "score": rng.random(),
            "tags": [corpus.name() for _ in range(rng.randrange(6))],
            "title": corpus.prose(40),
            "body": corpus.prose(int(rng.lognormvariate(6.6, 0.8))),
        }
        if kind == 1:
            doc["state"] = base64.b64encode(rng.randbytes(600)).decode()
        return json.dumps(doc)

    def put(n):
        return ("SET", f"item:{n}", value(n))

    for start in range(0, keys, 100):
        redis.run([put(n) for n in range(start, min(start + 100, keys))])
    ready("cache")
    while True:
        # Most writes go to a few hot keys, as in any cache.
        n = rng.randrange(keys // 20) if rng.random() < 0.6 else rng.randrange(keys)
        redis.run([
            put(n),
            ("EXPIRE", f"item:{n}", rng.randrange(60, 3600)),
            ("GET", f"item:{rng.randrange(keys)}"),
            ("INCR", f"hits:{n % 500}"),
            ("LPUSH", "log", corpus.prose(80)),
            ("LTRIM", "log", 0, 2000),
        ])
        pace(rng, 60)


class Order:
    def __init__(self, rng, corpus, number):
        self.number = number
        self.customer = corpus.name()
        self.created = time.time()
        self.lines = [
            {"sku": corpus.name(), "count": rng.randrange(1, 9), "price": rng.random() * 100}
            for _ in range(rng.randrange(1, 5))
        ]
        self.note = corpus.prose(200) if rng.random() < 0.4 else None
        self.state = "new"


def heap(rng, corpus):
    """An application server: objects that are made, changed and dropped."""
    last = 4500
    orders = {n: Order(rng, corpus, n) for n in range(last + 1)}
    ready("heap")
    while True:
        numbers = list(orders)  # in the order of their making
        for old in rng.sample(numbers[:700], 8):
            # An order lives long or hardly at all.
            del orders[numbers[-1] if rng.random() < 0.5 else old]
            last += 1
            orders[last] = Order(rng, corpus, last)
            numbers.append(last)
        for n in rng.sample(sorted(orders)[-1000:], 30):
            order = orders[n]
            order.state = rng.choice(["paid", "packed", "sent"])
            order.lines[0]["count"] += 1
            order.total = sum(line["count"] * line["price"] for line in order.lines)
        pace(rng, 4)


def rows(rng, corpus):
    """A small business's database."""
    db = sqlite3.connect("/tmp/app.db", isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "CREATE TABLE document (id INTEGER PRIMARY KEY, author TEXT, title TEXT, body TEXT, updated REAL);"
        "CREATE INDEX document_author ON document (author);"
    )
    insert = "INSERT INTO document (author, title, body, updated) VALUES (?, ?, ?, ?)"

    def row():
        return corpus.name(), corpus.prose(50), corpus.prose(int(rng.lognormvariate(6.5, 0.9))), time.time()

    for _ in range(8):
        db.execute("BEGIN")
        db.executemany(insert, [row() for _ in range(500)])
        db.execute("COMMIT")
    ready("rows")
    while True:
        low, high = db.execute("SELECT min(id), max(id) FROM document").fetchone()
        db.execute("BEGIN")
        for _ in range(6):
            at = rng.randint(low, high)
            what = rng.random()
            if what < 0.5:
                db.execute("UPDATE document SET body = ?, updated = ? WHERE id = ?", (corpus.prose(600), time.time(), at))
            elif what < 0.8:
                db.execute("DELETE FROM document WHERE id = ?", (at,))
                db.execute(insert, row())
            else:
                db.execute("SELECT count(*) FROM document WHERE author > ? AND author < ?", ("m", "n")).fetchone()
        db.execute("COMMIT")
        pace(rng, 5)


def main():
    part, seed = sys.argv[1], sys.argv[2]
    rng = random.Random(f"{seed} {part}")
    {"cache": cache, "heap": heap, "rows": rows}[part](rng, Corpus(rng))


main()
