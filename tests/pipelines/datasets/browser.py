"""A real Chromium without a window, spoken to over its debugging pipe."""

import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


class Page:
    """One page; what it asked the network for and what it said is noted."""

    def __init__(self, url):
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        command = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += [f"--user-data-dir={self._profile}", "--no-first-run", "about:blank"]
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", command, CHROMIUM, *flags],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._held, self._num, self._session = b"", 0, None
        self.requests, self.said = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method, **words):
        self._num += 1
        message = {"id": self._num, "method": method, "params": words}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == self._num:
                assert "error" not in found, found
                return found["result"]
            self._note(found)

    def run(self, script):
        """Return the value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script):
        end = time.monotonic() + 20
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            code = {"windowsVirtualKeyCode": 39} if key == "ArrowRight" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text, **code)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def click(self, selector):
        box = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, x=box[0], y=box[1], button="left", clickCount=1,
            )  # fmt: skip

    def _message(self):
        while b"\0" not in self._held:
            piece = os.read(self._read, 1 << 20)
            assert piece, "Chromium ended"
            self._held += piece
        text, _, self._held = self._held.partition(b"\0")
        return json.loads(text)

    def _note(self, found):
        if found.get("method") == "Network.requestWillBeSent":
            self.requests.append(found["params"]["request"]["url"])
        if found.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
            self.said.append(found["params"])
        if found.get("method") == "Page.javascriptDialogOpening":
            self.said.append(found["params"])
