# A process to checkpoint: it holds one of each kind of thing that Describe
# tells of, and on SIGUSR1 writes to the file "digest" what its memory holds.
import ctypes, fcntl, hashlib, mmap, os, select, signal, socket, sys, threading, time

PAGE = 4096
os.closerange(3, 1024)  # of whoever started the test

def fill(memory, pages, seed):
    for i in range(pages):
        block = hashlib.sha256(b"%s %d" % (seed, i)).digest()
        memory[i * PAGE:(i + 1) * PAGE] = block * (PAGE // len(block))

private = mmap.mmap(-1, 300 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
fill(private, 300, b"private")
shared = mmap.mmap(-1, 100 * PAGE)  # shared with the child
fill(shared, 100, b"shared")

def digest(*_):
    h = hashlib.sha256(private[:] + shared[:])
    with open("digest.new", "w") as f:
        f.write(h.hexdigest())
    os.rename("digest.new", "digest")

plain = open("plain file", "w+")
odd = os.open(b"odd\xff\nname", os.O_CREAT | os.O_RDWR)
fcntl.flock(plain, fcntl.LOCK_EX)
os.mkfifo("fifo")
fifo = os.open("fifo", os.O_RDWR)
pipe = os.pipe()
epoll = select.epoll()
epoll.register(pipe[0])

port = int(sys.argv[1])
if port:  # 0 is for no sockets of the internet
    listener = socket.create_server(("127.0.0.1", port))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
abstract = socket.socket(socket.AF_UNIX)
abstract.bind(b"\0arcstore \xff%d" % os.getpid())
abstract.listen()
named = socket.socket(socket.AF_UNIX)
named.bind(os.path.abspath("named.sock"))
named.listen()
pair = socket.socketpair()

def sleep():
    while True:
        time.sleep(1)

if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, b"victim-child", 0, 0, 0)  # PR_SET_NAME
    sleep()
threading.Thread(target=sleep, daemon=True).start()
signal.signal(signal.SIGUSR1, digest)
digest()
sleep()
