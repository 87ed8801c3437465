# says: threads 40425 fork 2470 spawn 2470 forkserver 2470 manager 3 shared 7 asyncio HELLO child
# says: mmap 5 timer affinity True lo fifo memfd 1
cat >script.py <<'EOF'
import asyncio, concurrent.futures, mmap, multiprocessing, os, signal, socket, subprocess, tempfile

def square(x): return x * x

async def serve(reader, writer):
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()

async def talk():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    answer = await reader.readline()
    writer.close()
    server.close()
    child = await asyncio.create_subprocess_exec("echo", "child", stdout=subprocess.PIPE)
    out, _ = await child.communicate()
    return answer.decode().strip(), out.decode().strip()

def main():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        print("threads", sum(pool.map(square, range(50))))
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, sum(pool.map(square, range(20))))
    with multiprocessing.Manager() as manager:
        print("manager", len(manager.list([1, 2, 3])))
    from multiprocessing.shared_memory import SharedMemory
    block = SharedMemory(create=True, size=4096)
    block.buf[0] = 7
    print("shared", block.buf[0])
    block.close()
    block.unlink()
    print("asyncio", *asyncio.run(talk()))
    with tempfile.TemporaryFile() as file:
        file.truncate(8192)
        view = mmap.mmap(file.fileno(), 8192)
        view[0] = 5
        print("mmap", view[0])
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    print("timer")
    print("affinity", len(os.sched_getaffinity(0)) > 0, socket.if_nameindex()[0][1])
    os.mkfifo("/tmp/pipe")
    os.nice(1)
    fd = os.memfd_create("m")
    os.write(fd, b"m")
    print("fifo memfd", os.fstat(fd).st_size)

if __name__ == "__main__":
    main()
EOF
python3 script.py
