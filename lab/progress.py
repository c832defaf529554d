"""How far a long command is."""

import time
from datetime import timedelta


class Progress:
    """Prints how many of `count` are done, at most once a second, with rate and time left."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.first = self.shown = 0.0

    def show(self, done: int, words: str) -> None:
        now = time.monotonic()
        self.first = self.first or now  # the time until then is mostly that of loading
        if done < self.count and now - self.shown < 1:
            return
        self.shown = now
        rate = (done - 1) / (now - self.first) if now > self.first else 0.0
        left = (
            f", {rate:.2f}/s, {timedelta(seconds=(self.count - done) // rate)} left" if rate else ""
        )
        print(f"{done} of {self.count}: {words}{left}", flush=True)
