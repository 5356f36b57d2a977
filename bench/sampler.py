"""Memory of the processes of servers, sampled while something runs.

What counts is a process's own memory (RssAnon); shared buffers are everybody's.
"""

import re
import threading


class Sampler:
    def __init__(self, servers, interval=0.2):
        self.servers = servers
        self.interval = interval
        self.most = {}          # kind of process -> bytes
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def run(self):
        while not self.ended.wait(self.interval):
            for server in self.servers:
                for pid, title in server.processes():
                    self.sample(pid, title)

    def sample(self, pid, title):
        try:
            with open(f"/proc/{pid}/status") as status:
                found = re.search(r"^RssAnon:\s+(\d+) kB", status.read(), re.M)
        except OSError:
            return
        if found:
            kind = kind_of(title)
            self.most[kind] = max(self.most.get(kind, 0), int(found.group(1)) * 1024)

    def of(self, word):
        """Most that a process of which the title has the word took; 0: there was none."""
        return max([size for kind, size in self.most.items() if word in kind], default=0)


def kind_of(title):
    """What a process is, without numbers of databases, peers and sessions."""
    title = re.sub(r"^postgres: ", "", title)
    title = re.sub(r" for (database|subscription) \d+.*", "", title)
    if "[local]" in title or re.search(r"\(\d+\)", title):
        return "walsender" if title.startswith("walsender") else "session"
    return title.strip()
