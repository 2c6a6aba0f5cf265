"""Made scenes with known shots: what a detector of cuts must find, and what must not fool it."""

from collections.abc import Iterator

import cv2
import numpy as np

HEIGHT, WIDTH = 90, 160


def scene(seed, num_frames=30, speed=1.0, grain=0):
    """A camera that moves over a picture of its own colours while something crosses it."""
    random = np.random.default_rng(seed)
    base = random.integers(0, 256, (6, 12, 3), np.uint8)
    wide = cv2.resize(base, (WIDTH * 8, HEIGHT * 8), interpolation=cv2.INTER_CUBIC)
    wide = (wide * random.uniform(0.35, 1, 3) + random.uniform(0, 60)).clip(0, 255).astype(np.uint8)
    for _ in range(300):
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        x, y = int(random.integers(0, WIDTH * 8)), int(random.integers(0, HEIGHT * 8))
        cv2.circle(wide, (x, y), int(random.integers(4, 28)), colour, -1)
    wide = cv2.GaussianBlur(wide, (3, 3), 0)
    way = random.uniform(0, 2 * np.pi)
    frames = []
    for index in range(num_frames):
        away = speed * (index - num_frames / 2) * np.array([np.cos(way), np.sin(way) / 2])
        x, y = (np.array([WIDTH, HEIGHT]) * 3.5 + away).astype(int)
        frame = wide[y : y + HEIGHT, x : x + WIDTH].astype(np.int16)
        frame[20 : HEIGHT - 20, 2 * index : 2 * index + 24] = random.bytes(1)[0] // 99 + 90
        if grain:
            frame = frame + random.normal(0, grain, frame.shape)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def joined(*shots):
    """Shots with hard cuts between them, and where those lie."""
    borders = np.cumsum([len(shot) for shot in shots])[:-1].tolist()
    return np.concatenate(shots), borders


def kinds() -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """Yield (kind, frames, true borders)."""
    for seed in range(0, 400, 100):
        lengths = range(20, 45, 5)
        yield "hard cuts", *joined(*(scene(seed + k, n) for k, n in enumerate(lengths)))
        yield "cuts, fast camera", *joined(*(scene(seed + k, n, 8) for k, n in enumerate(lengths)))
        yield "cuts, grain", *joined(*(scene(seed + k, n, 1, 18) for k, n in enumerate(lengths)))
        yield "shots of 8 frames", *joined(*(scene(seed + k, 8) for k in range(8)))
        yield "fades through black", *_faded(scene(seed + 1, 40), scene(seed + 2, 40))
        yield "dissolves", *_dissolved(scene(seed + 3, 50), scene(seed + 4, 50))
        yield "flashes", _flashed(scene(seed + 5, 90)), []
        yield "fast pan", scene(seed + 6, 40, 14), []
        yield "pan that starts at once", _started(scene(seed + 7, 60, 0), seed), []
        yield "standing picture", scene(seed + 8, 60, 0), []
        yield "grain only", scene(seed + 9, 60, 0, 30), []
        swing = 0.6 + 0.4 * np.sin(np.arange(90) / 4)[:, None, None, None]
        yield "brightness swings", (scene(seed + 10, 90) * swing).astype(np.uint8), []


def _faded(first, second):
    level = np.linspace(1, 0, 14)[:, None, None, None]
    out, back = first.astype(float), second.astype(float)
    out[-14:] *= level
    back[:14] *= level[::-1]
    black = np.zeros((6, HEIGHT, WIDTH, 3))
    return np.concatenate([out, black, back]).astype(np.uint8), [43]


def _dissolved(first, second):
    share = np.linspace(0, 1, 20)[:, None, None, None]
    between = first[-20:] * (1 - share) + second[:20] * share
    return np.concatenate([first[:-20], between, second[20:]]).astype(np.uint8), [40]


def _flashed(frames):
    for index in (20, 21, 50, 51, 52, 70):
        frames[index] = (frames[index].astype(int) // 6 + 210).clip(0, 255)
    return frames


def _started(standing, seed):
    return np.concatenate([standing[:30], scene(seed + 7, 40, 12)[20:]])
