/** Reading the end of a growing file, and then what is appended to it. */
import { type FileHandle, open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 200;
const CHUNK_BYTES = 64 * 1024;

/** The last `count` lines of a file. Reads from its end, so a large log costs nothing. */
export async function lastLines(path: string, count: number): Promise<{ lines: string[]; endBytes: number }> {
  const file = await open(path, "r");
  try {
    const endBytes = (await file.stat()).size;
    let text = Buffer.alloc(0);
    let start = endBytes;
    // One line break more than lines, because the file ends with one.
    while (start > 0 && countLineBreaks(text) <= count) {
      const from = Math.max(0, start - CHUNK_BYTES);
      text = Buffer.concat([await readAt(file, from, start - from), text]);
      start = from;
    }
    const lines = text.toString("utf8").split("\n");
    if (lines.at(-1) === "") lines.pop();
    return { lines: count === 0 ? [] : lines.slice(-count), endBytes };
  } finally {
    await file.close();
  }
}

/** Lines appended after `startBytes`, until aborted. A file that was replaced by a shorter one is read from its start. */
export async function* followLines(
  path: string,
  startBytes: number,
  signal: AbortSignal,
): AsyncIterable<string[]> {
  let position = startBytes;
  let rest = "";
  while (!signal.aborted) {
    const file = await open(path, "r");
    try {
      const size = (await file.stat()).size;
      if (size < position) {
        position = 0;
        rest = "";
      }
      while (position < size) {
        const chunk = await readAt(file, position, Math.min(CHUNK_BYTES, size - position));
        if (chunk.length === 0) break;
        position += chunk.length;
        const lines = (rest + chunk.toString("utf8")).split("\n");
        rest = lines.pop() ?? "";
        if (lines.length > 0) yield lines;
      }
    } finally {
      await file.close();
    }
    await sleep(POLL_MS, undefined, { signal }).catch(() => undefined);
  }
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  return buffer.subarray(0, bytesRead);
}

function countLineBreaks(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) count++;
  return count;
}
